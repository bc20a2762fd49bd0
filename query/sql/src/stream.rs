//! The statements about streams: `CREATE STREAM`, `DROP STREAM`, `SHOW STREAMS`, and `DESCRIBE`.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, ColumnDef, ColumnOption, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use pyflare_operators::fields::{FieldType, STREAMS};
use pyflare_operators::streams::{
    DEFAULT_TIME, MOST_COLUMNS, RESERVED_COLUMNS, StreamColumn, StreamDefinition, TopicStart,
};

use crate::error::{Position, SqlError, SqlErrorKind};
use crate::options::{DAY, LONGEST_DESCRIPTION, SECOND, TOPIC_NAMES, duration, is_topic, text_value};
use crate::statement::{Parsed, check_name, eat, expect, is_word, key_and_value, monitor_name, syntax};

/// The options of `CREATE STREAM … WITH (…)`.
const OPTIONS: &str = "event_time, lateness, retention, description; of a Kafka topic also start";
const TYPES: &str = "TEXT, BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL(38, 12), TIMESTAMP, TEXT[] and JSON";

/// Reads a statement about streams; `None`: it is about something else, and nothing was read.
pub(crate) fn statement(parser: &mut Parser<'_>) -> Result<Option<Parsed>, SqlError> {
    let second = parser.peek_nth_token(1).token;
    let about = |word: &str| is_word(&second, word);
    if eat_if(parser, "create", about("stream")) {
        expect(parser, "stream")?;
        return create(parser).map(Some);
    }
    if eat_if(parser, "drop", about("stream")) {
        expect(parser, "stream")?;
        let if_exists = eat(parser, "if");
        if if_exists {
            expect(parser, "exists")?;
        }
        let name = monitor_name(parser)?;
        return Ok(Some(Parsed::DropStream { name, if_exists }));
    }
    if eat_if(parser, "show", about("streams")) {
        expect(parser, "streams")?;
        return Ok(Some(Parsed::ShowStreams));
    }
    if eat(parser, "describe") || eat(parser, "desc") {
        for word in ["monitor", "stream", "view"] {
            // A relation may have one of these names.
            if parser.peek_nth_token(1).token != Token::EOF && eat(parser, word) {
                break;
            }
        }
        let token = parser.peek_token();
        let object = parser
            .parse_object_name(false)
            .map_err(|error| syntax(&error).at(Position::start(token.span)))?;
        return Ok(Some(Parsed::Describe {
            name: relation_name(&object),
        }));
    }
    Ok(None)
}

fn eat_if(parser: &mut Parser<'_>, word: &str, condition: bool) -> bool {
    condition && eat(parser, word)
}

/// `live.requests` and `requests`, as they are written in a query.
fn relation_name(object: &ObjectName) -> String {
    let parts = object.0.iter().filter_map(|part| part.as_ident());
    let parts: Vec<String> = parts
        .map(|part| match part.quote_style {
            Some(_) => part.value.clone(),
            None => part.value.to_ascii_lowercase(),
        })
        .collect();
    match parts.as_slice() {
        [schema, name] if schema == "live" || schema == "history" => name.clone(),
        _ => parts.join("."),
    }
}

fn create(parser: &mut Parser<'_>) -> Result<Parsed, SqlError> {
    let if_not_exists = eat(parser, "if");
    if if_not_exists {
        expect(parser, "not")?;
        expect(parser, "exists")?;
    }
    let start = parser.peek_token();
    let position = Position::start(start.span);
    let name = monitor_name(parser)?;
    if STREAMS.contains(&name.as_str()) {
        return Err(
            SqlError::new(SqlErrorKind::Name, format!("{name} is a stream of OpenTelemetry"))
                .at(position)
                .hint("choose another name"),
        );
    }
    let opening = parser.peek_token();
    if opening.token != Token::LParen {
        return Err(SqlError::new(
            SqlErrorKind::Syntax,
            format!("expected (, found {}", opening.token),
        )
        .at(Position::start(opening.span))
        .hint("write CREATE STREAM name (column TYPE, …) WITH (event_time = 'column')"));
    }
    let written = read_columns(parser)?;
    let mut columns: Vec<StreamColumn> = Vec::with_capacity(written.len());
    for column in &written {
        let column = read_column(column)?;
        if columns.iter().any(|other| other.name == column.name) {
            return Err(SqlError::new(
                SqlErrorKind::Name,
                format!("the column {} is declared twice", column.name),
            )
            .at(position));
        }
        columns.push(column);
    }
    if columns.is_empty() || columns.len() > MOST_COLUMNS {
        return Err(SqlError::new(
            SqlErrorKind::Limit,
            format!("a stream has 1 to {MOST_COLUMNS} columns"),
        )
        .at(position));
    }
    let mut definition = StreamDefinition {
        project: String::new(),
        name,
        sql: String::new(),
        columns,
        time: None,
        lateness_us: None,
        retention_us: None,
        description: None,
        topic: None,
    };
    let mut has_options = false;
    loop {
        let token = parser.peek_token().token;
        if is_word(&token, "with") && !has_options {
            read_options(parser, &mut definition)?;
            has_options = true;
        } else if is_word(&token, "from")
            && definition
                .topic
                .as_ref()
                .is_none_or(|topic| topic.name.is_empty())
        {
            read_topic(parser, &mut definition)?;
        } else {
            break;
        }
    }
    if definition
        .topic
        .as_ref()
        .is_some_and(|topic| topic.name.is_empty())
    {
        return Err(SqlError::new(
            SqlErrorKind::MonitorOption,
            "start is an option of a stream that reads a topic",
        )
        .at(position)
        .hint("write FROM KAFKA TOPIC 'name' behind it, or leave start out"));
    }
    choose_time(&mut definition).map_err(|error| error.at(position))?;
    Ok(Parsed::CreateStream {
        definition: Box::new(definition),
        if_not_exists,
    })
}

/// `FROM KAFKA TOPIC 'name'`.
fn read_topic(parser: &mut Parser<'_>, definition: &mut StreamDefinition) -> Result<(), SqlError> {
    expect(parser, "from")?;
    expect(parser, "kafka")?;
    expect(parser, "topic")?;
    let token = parser.next_token();
    let Token::SingleQuotedString(name) = token.token else {
        return Err(SqlError::new(
            SqlErrorKind::Syntax,
            format!("expected the topic's name in quotes, found {}", token.token),
        )
        .at(Position::start(token.span))
        .hint("write FROM KAFKA TOPIC 'name'"));
    };
    if !is_topic(&name) {
        return Err(SqlError::new(
            SqlErrorKind::Name,
            format!("{name:?} is no name of a Kafka topic"),
        )
        .at(Position::start(token.span))
        .hint(TOPIC_NAMES));
    }
    definition.topic.get_or_insert_default().name = name;
    Ok(())
}

/// Where reading a topic begins: `earliest`, `latest`, or a moment.
fn topic_start(text: &str) -> Option<TopicStart> {
    Some(match text.to_ascii_lowercase().as_str() {
        "earliest" => TopicStart::Earliest,
        "latest" => TopicStart::Latest,
        _ => TopicStart::Time(
            chrono::DateTime::parse_from_rfc3339(text)
                .ok()?
                .timestamp_micros(),
        ),
    })
}

/// The columns in parentheses. The parser's own list takes columns named `key` or `index` for something else.
fn read_columns(parser: &mut Parser<'_>) -> Result<Vec<ColumnDef>, SqlError> {
    parser.next_token();
    let mut columns = Vec::new();
    loop {
        let token = parser.peek_token();
        if columns.is_empty() && token.token == Token::RParen {
            parser.next_token();
            return Ok(columns);
        }
        let next = parser.peek_nth_token(1).token;
        let constraint = match &token.token {
            word if is_word(word, "primary") || is_word(word, "foreign") => is_word(&next, "key"),
            word if is_word(word, "unique") || is_word(word, "check") => next == Token::LParen,
            word => is_word(word, "constraint") && matches!(next, Token::Word(_)),
        };
        if constraint {
            return Err(SqlError::new(
                SqlErrorKind::Clause,
                format!("{} … is not kept by a stream", token.token),
            )
            .at(Position::start(token.span))
            .hint("a stream has columns with types, and NOT NULL"));
        }
        columns.push(parser.parse_column_def().map_err(|error| syntax(&error))?);
        let end = parser.next_token();
        match end.token {
            Token::Comma => {}
            Token::RParen => return Ok(columns),
            found => {
                return Err(
                    SqlError::new(SqlErrorKind::Syntax, format!("expected , or ), found {found}"))
                        .at(Position::start(end.span)),
                );
            }
        }
    }
}

/// A column of the default name is the event time unless another one is.
fn choose_time(definition: &mut StreamDefinition) -> Result<(), SqlError> {
    let declares = |name: &str| definition.columns.iter().find(|column| column.name == name);
    if definition.time.is_none() && declares(DEFAULT_TIME).is_some() {
        definition.time = Some(DEFAULT_TIME.to_string());
    }
    let Some(time) = &definition.time else {
        return Ok(());
    };
    let declares = |name: &str| definition.columns.iter().find(|column| column.name == name);
    match declares(time) {
        Some(column) if column.data_type == FieldType::Timestamp => Ok(()),
        Some(_) => Err(SqlError::new(
            SqlErrorKind::MonitorOption,
            format!("the event time {time} is not of type TIMESTAMP"),
        )
        .hint(format!("declare {time} TIMESTAMP"))),
        None => Err(SqlError::new(
            SqlErrorKind::MonitorOption,
            format!("the event time {time} is not one of the columns"),
        )
        .hint("name a column of type TIMESTAMP, or leave event_time out: then it is the time received")),
    }
}

fn read_column(column: &ColumnDef) -> Result<StreamColumn, SqlError> {
    let position = Position::start(column.name.span);
    let name = match column.name.quote_style {
        Some(_) => column.name.value.clone(),
        None => column.name.value.to_ascii_lowercase(),
    };
    check_name(&name).map_err(|error| error.at(position))?;
    if name.starts_with('_') || RESERVED_COLUMNS.contains(&name.as_str()) {
        return Err(SqlError::new(
            SqlErrorKind::Name,
            format!("{name} cannot be declared: it is there anyway"),
        )
        .at(position)
        .hint("project, window_start, window_end and names that begin with _ are taken"));
    }
    let data_type = field_type(&column.data_type).ok_or_else(|| {
        SqlError::new(
            SqlErrorKind::Meaning,
            format!(
                "{name} has the type {}, which a stream does not have",
                column.data_type
            ),
        )
        .at(position)
        .hint(format!("there are {TYPES}"))
    })?;
    let mut required = false;
    for option in &column.options {
        match &option.option {
            ColumnOption::NotNull => required = true,
            ColumnOption::Null => {}
            other => {
                return Err(
                    SqlError::new(SqlErrorKind::Clause, format!("{other} is not kept by a stream"))
                        .at(position)
                        .hint("a column has a type, and NOT NULL where rows without it are to be rejected"),
                );
            }
        }
    }
    Ok(StreamColumn {
        name,
        data_type,
        required,
    })
}

fn field_type(written: &DataType) -> Option<FieldType> {
    Some(match written {
        DataType::Text
        | DataType::String(_)
        | DataType::Varchar(None)
        | DataType::CharacterVarying(None)
        | DataType::Nvarchar(None)
        | DataType::Uuid => FieldType::Text,
        DataType::Boolean | DataType::Bool => FieldType::Bool,
        DataType::TinyInt(None)
        | DataType::SmallInt(None)
        | DataType::Int2(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Int4(None)
        | DataType::Int32 => FieldType::Int32,
        DataType::BigInt(None) | DataType::Int8(None) | DataType::Int64 => FieldType::Int64,
        DataType::Double(_)
        | DataType::DoublePrecision
        | DataType::Float(_)
        | DataType::Float4
        | DataType::Float8
        | DataType::Float64
        | DataType::Real => FieldType::Float64,
        DataType::Decimal(precision) | DataType::Numeric(precision) | DataType::Dec(precision) => {
            let fits = match precision {
                ExactNumberInfo::None => true,
                ExactNumberInfo::Precision(digits) => *digits <= 26,
                ExactNumberInfo::PrecisionAndScale(digits, scale) => {
                    (0..=12).contains(scale) && *digits <= 26 + *scale as u64
                }
            };
            return fits.then_some(FieldType::Money);
        }
        DataType::Timestamp(None | Some(6), zone) => match zone {
            TimezoneInfo::WithoutTimeZone => return None,
            _ => FieldType::Timestamp,
        },
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(item, None)
            | ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => return (field_type(item)? == FieldType::Text).then_some(FieldType::TextList),
        DataType::JSON | DataType::JSONB => FieldType::TextMap,
        DataType::Map(key, value) => {
            let texts = field_type(key)? == FieldType::Text && field_type(value)? == FieldType::Text;
            return texts.then_some(FieldType::TextMap);
        }
        _ => return None,
    })
}

fn read_options(parser: &mut Parser<'_>, definition: &mut StreamDefinition) -> Result<(), SqlError> {
    let position = Position::start(parser.peek_token().span);
    let options = parser
        .parse_options(Keyword::WITH)
        .map_err(|error| syntax(&error).at(position))?;
    let mut seen: Vec<String> = Vec::new();
    for option in options {
        let option = key_and_value(option)?;
        let position = Position::start(option.key.span);
        let name = option.key.value.to_ascii_lowercase();
        let refused = |message: String| SqlError::new(SqlErrorKind::MonitorOption, message).at(position);
        if seen.contains(&name) {
            return Err(refused(format!("the option {name} is given twice")));
        }
        let text = text_value(&option.value).ok_or_else(|| {
            refused(format!("the value of {name} is not text")).hint(format!("write {name} = '…'"))
        })?;
        match name.as_str() {
            "event_time" => definition.time = Some(text.to_string()),
            "lateness" => {
                definition.lateness_us = Some(duration(&name, text, 0, 30 * DAY).map_err(refused)?);
            }
            "retention" => {
                definition.retention_us = Some(duration(&name, text, SECOND, 3_660 * DAY).map_err(refused)?);
            }
            "start" => {
                definition.topic.get_or_insert_default().start = topic_start(text).ok_or_else(|| {
                    refused(format!("start is 'earliest', 'latest' or a moment, not {text:?}"))
                        .hint("a moment is written as 2026-01-31T12:00:00Z")
                })?;
            }
            "description" if text.len() > LONGEST_DESCRIPTION => {
                return Err(refused(format!(
                    "the description has more than {LONGEST_DESCRIPTION} bytes"
                )));
            }
            "description" => definition.description = Some(text.to_string()),
            _ => {
                return Err(
                    refused(format!("there is no option {name}")).hint(format!("there are {OPTIONS}"))
                );
            }
        }
        seen.push(name);
    }
    Ok(())
}
