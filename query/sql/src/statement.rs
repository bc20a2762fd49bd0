//! The wrapper around a monitor's SELECT: which statement it is, its name, its options, its EMIT clause.
//!
//! DataFusion's parser reads the SELECT; what surrounds it is ours. A trailing `EMIT …` is cut off before the
//! parser sees the tokens, because it would take it for an alias of the last table.

use datafusion::sql::sqlparser::ast::{Ident, ObjectNamePart, Query, Spanned, SqlOption};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use pyflare_dataflows::MonitorOptions;
use pyflare_operators::streams::StreamDefinition;

use crate::alter::OptionChanges;
use crate::error::{Position, SqlError, SqlErrorKind};
use crate::{alter, options, stream};

/// Longest statement, in bytes.
pub const LONGEST_STATEMENT: usize = 64 * 1024;
/// Longest text constant, in bytes.
pub const LONGEST_LITERAL: usize = 4 * 1024;
/// Most words, numbers, constants and signs in one statement.
pub const MOST_TOKENS: usize = 4_000;
/// Deepest nesting of expressions and subqueries.
pub const DEEPEST_NESTING: usize = 40;
/// Longest name of a monitor or a column.
pub const LONGEST_NAME: usize = 63;

/// A statement, taken apart but not yet planned.
#[derive(Debug)]
pub(crate) enum Parsed {
    Create(Create),
    Drop {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    Alter {
        name: String,
        if_exists: bool,
        changes: OptionChanges,
    },
    Show,
    Explain(Box<Create>),
    ExplainNamed {
        name: String,
        analyze: bool,
    },
    CreateStream {
        definition: Box<StreamDefinition>,
        if_not_exists: bool,
    },
    DropStream {
        name: String,
        if_exists: bool,
    },
    ShowStreams,
    Describe {
        name: String,
    },
    Other,
}

#[derive(Debug)]
pub(crate) struct Create {
    pub name: String,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub options: MonitorOptions,
    /// Where the query begins in the statement.
    pub query_at: Location,
    pub query: Box<Query>,
}

/// Recognises the statements about monitors and streams; everything else is [`Parsed::Other`], whatever it says.
pub(crate) fn parse(sql: &str) -> Result<Parsed, SqlError> {
    let dialect = GenericDialect {};
    let monitor_statement = leads_to_monitor(sql);
    if !monitor_statement {
        return Ok(Parsed::Other);
    }
    if sql.len() > LONGEST_STATEMENT {
        return Err(SqlError::new(
            SqlErrorKind::Limit,
            format!(
                "the statement has {} bytes, at most {LONGEST_STATEMENT} are read",
                sql.len()
            ),
        ));
    }
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| {
            SqlError::new(
                SqlErrorKind::Syntax,
                format!("the text cannot be read: {}", error.message),
            )
            .at(Position::of(error.location))
        })?;
    check_tokens(&tokens)?;
    let mut tokens: Vec<TokenWithSpan> = tokens
        .into_iter()
        .filter(|token| is_meaningful(&token.token))
        .collect();
    while tokens.last().is_some_and(|token| token.token == Token::SemiColon) {
        tokens.pop();
    }
    let emit_final = cut_emit(&mut tokens)?;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(DEEPEST_NESTING)
        .with_tokens_with_locations(tokens);
    let mut parsed = statement(&mut parser)?;
    match &mut parsed {
        Parsed::Create(create) => create.options.emit_final = emit_final,
        Parsed::Explain(create) => create.options.emit_final = emit_final,
        _ => {}
    }
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(SqlError::new(
            SqlErrorKind::Syntax,
            format!("there is more after the statement: {}", rest.token),
        )
        .at(Position::start(rest.span))
        .hint("send one statement at a time"));
    }
    Ok(parsed)
}

fn is_meaningful(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

/// Whether the first words are those of a statement about monitors or streams.
fn leads_to_monitor(sql: &str) -> bool {
    let mut words = LeadingWords { rest: sql };
    match words.next().as_deref() {
        Some("create") => {
            let mut word = words.next();
            if word.as_deref() == Some("or") {
                words.next();
                word = words.next();
            }
            matches!(word.as_deref(), Some("monitor" | "stream"))
        }
        Some("alter") => words.next().as_deref() == Some("monitor"),
        Some("drop") => matches!(words.next().as_deref(), Some("monitor" | "stream")),
        Some("explain") => {
            let mut word = words.next();
            if word.as_deref() == Some("analyze") {
                word = words.next();
            }
            word.as_deref() == Some("monitor")
        }
        Some("show") => matches!(words.next().as_deref(), Some("monitors" | "streams")),
        Some("describe" | "desc") => true,
        _ => false,
    }
}

/// The words at the beginning of a text, in lower case, comments and spaces skipped.
struct LeadingWords<'a> {
    rest: &'a str,
}

impl LeadingWords<'_> {
    fn next(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if let Some(comment) = self.rest.strip_prefix("--") {
                self.rest = comment.split_once('\n').map_or("", |(_, after)| after);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                self.rest = comment.split_once("*/").map_or("", |(_, after)| after);
            } else {
                break;
            }
        }
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_ascii_lowercase())
    }
}

fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut depth = 0usize;
    let mut count = 0usize;
    for token in tokens.iter().filter(|token| is_meaningful(&token.token)) {
        count += 1;
        let literal = match &token.token {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) | Token::Number(text, _) => {
                text.len()
            }
            Token::DollarQuotedString(text) => text.value.len(),
            _ => 0,
        };
        if literal > LONGEST_LITERAL {
            return Err(SqlError::new(
                SqlErrorKind::Limit,
                format!("a constant has {literal} bytes, at most {LONGEST_LITERAL} are read"),
            )
            .at(Position::start(token.span)));
        }
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST_NESTING {
            return Err(too_deep().at(Position::start(token.span)));
        }
        if count > MOST_TOKENS {
            return Err(SqlError::new(
                SqlErrorKind::Limit,
                format!("the statement has more than {MOST_TOKENS} words and signs"),
            )
            .at(Position::start(token.span)));
        }
    }
    Ok(())
}

pub(crate) fn too_deep() -> SqlError {
    SqlError::new(
        SqlErrorKind::Limit,
        format!("the statement is nested more than {DEEPEST_NESTING} levels deep"),
    )
    .hint("name intermediate results in a WITH clause")
}

/// Takes `EMIT …` off the end; says whether it was `EMIT FINAL`.
fn cut_emit(tokens: &mut Vec<TokenWithSpan>) -> Result<bool, SqlError> {
    let Some(at) = tokens.len().checked_sub(2) else {
        return Ok(false);
    };
    if !is_word(&tokens[at].token, "emit") {
        return Ok(false);
    }
    let position = Position::start(tokens[at].span);
    let Token::Word(mode) = &tokens[at + 1].token else {
        return Ok(false);
    };
    let emit_final = match mode.value.to_ascii_lowercase().as_str() {
        "changes" => false,
        "final" => true,
        other => {
            return Err(
                SqlError::new(SqlErrorKind::Syntax, format!("EMIT {other} does not exist"))
                    .at(position)
                    .hint("write EMIT CHANGES, EMIT FINAL or nothing"),
            );
        }
    };
    tokens.truncate(at);
    Ok(emit_final)
}

pub(crate) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Takes the next token if it is `word`.
pub(crate) fn eat(parser: &mut Parser<'_>, word: &str) -> bool {
    let found = is_word(&parser.peek_token().token, word);
    if found {
        parser.next_token();
    }
    found
}

pub(crate) fn expect(parser: &mut Parser<'_>, word: &str) -> Result<(), SqlError> {
    if eat(parser, word) {
        return Ok(());
    }
    let found = parser.peek_token();
    Err(SqlError::new(
        SqlErrorKind::Syntax,
        format!("expected {}, found {}", word.to_uppercase(), found.token),
    )
    .at(Position::start(found.span)))
}

fn statement(parser: &mut Parser<'_>) -> Result<Parsed, SqlError> {
    if let Some(parsed) = stream::statement(parser)? {
        return Ok(parsed);
    }
    if eat(parser, "show") {
        expect(parser, "monitors")?;
        return Ok(Parsed::Show);
    }
    if eat(parser, "alter") {
        return alter::statement(parser);
    }
    if eat(parser, "drop") {
        expect(parser, "monitor")?;
        let if_exists = eat(parser, "if");
        if if_exists {
            expect(parser, "exists")?;
        }
        let name = monitor_name(parser)?;
        // RESTRICT is what a drop does anyway.
        let cascade = eat(parser, "cascade");
        if !cascade {
            eat(parser, "restrict");
        }
        return Ok(Parsed::Drop {
            name,
            if_exists,
            cascade,
        });
    }
    if eat(parser, "explain") {
        let analyze = eat(parser, "analyze");
        expect(parser, "monitor")?;
        if analyze {
            let position = Position::start(parser.peek_token().span);
            let statements = ["create", "select", "with"];
            if statements
                .iter()
                .any(|word| is_word(&parser.peek_token().token, word))
            {
                return Err(SqlError::new(
                    SqlErrorKind::Syntax,
                    "EXPLAIN ANALYZE MONITOR tells what a running monitor has done, so it takes a name",
                )
                .at(position)
                .hint("create the monitor first, or write EXPLAIN MONITOR …"));
            }
            return Ok(Parsed::ExplainNamed {
                name: monitor_name(parser)?,
                analyze,
            });
        }
        if is_word(&parser.peek_token().token, "create") {
            return Ok(Parsed::Explain(Box::new(create(parser)?)));
        }
        if is_word(&parser.peek_token().token, "select") || is_word(&parser.peek_token().token, "with") {
            return Ok(Parsed::Explain(Box::new(Create {
                name: "explained".into(),
                or_replace: false,
                if_not_exists: false,
                options: MonitorOptions::default(),
                query_at: parser.peek_token().span.start,
                query: query(parser)?,
            })));
        }
        return Ok(Parsed::ExplainNamed {
            name: monitor_name(parser)?,
            analyze,
        });
    }
    Ok(Parsed::Create(create(parser)?))
}

fn create(parser: &mut Parser<'_>) -> Result<Create, SqlError> {
    expect(parser, "create")?;
    let or_replace = eat(parser, "or");
    if or_replace {
        expect(parser, "replace")?;
    }
    expect(parser, "monitor")?;
    let start = parser.peek_token();
    let if_not_exists = eat(parser, "if");
    if if_not_exists {
        expect(parser, "not")?;
        expect(parser, "exists")?;
    }
    if or_replace && if_not_exists {
        return Err(SqlError::new(
            SqlErrorKind::Syntax,
            "OR REPLACE and IF NOT EXISTS contradict each other",
        )
        .at(Position::start(start.span))
        .hint("keep one of them"));
    }
    let name = monitor_name(parser)?;
    let options = if is_word(&parser.peek_token().token, "with") {
        let position = Position::start(parser.peek_token().span);
        let options = parser
            .parse_options(Keyword::WITH)
            .map_err(|error| syntax(&error).at(position))?;
        options::read(
            &options
                .into_iter()
                .map(key_and_value)
                .collect::<Result<Vec<_>, _>>()?,
        )?
    } else {
        MonitorOptions::default()
    };
    expect(parser, "as")?;
    Ok(Create {
        name,
        or_replace,
        if_not_exists,
        options,
        query_at: parser.peek_token().span.start,
        query: query(parser)?,
    })
}

/// An option as it was written.
pub(crate) struct WrittenOption {
    pub key: Ident,
    pub value: datafusion::sql::sqlparser::ast::Expr,
}

pub(crate) fn key_and_value(option: SqlOption) -> Result<WrittenOption, SqlError> {
    let position = Position::start(option.span());
    match option {
        SqlOption::KeyValue { key, value } => Ok(WrittenOption { key, value }),
        other => Err(
            SqlError::new(SqlErrorKind::MonitorOption, format!("{other} is not an option"))
                .at(position)
                .hint("options are written key = 'value', for example retention = '48 hours'"),
        ),
    }
}

fn query(parser: &mut Parser<'_>) -> Result<Box<Query>, SqlError> {
    let start = parser.peek_token();
    if !["select", "with"].iter().any(|word| is_word(&start.token, word)) && start.token != Token::LParen {
        return Err(SqlError::new(
            SqlErrorKind::Syntax,
            format!("expected SELECT, found {}", start.token),
        )
        .at(Position::start(start.span)));
    }
    parser.parse_query().map_err(|error| syntax(&error))
}

pub(crate) fn monitor_name(parser: &mut Parser<'_>) -> Result<String, SqlError> {
    let start = parser.peek_token();
    let position = Position::start(start.span);
    let object = parser
        .parse_object_name(false)
        .map_err(|error| syntax(&error).at(position))?;
    let [ObjectNamePart::Identifier(identifier)] = object.0.as_slice() else {
        return Err(
            SqlError::new(SqlErrorKind::Name, format!("{object} has more than one part"))
                .at(position)
                .hint("a monitor's name is one word; it belongs to the project of whoever creates it"),
        );
    };
    let name = match identifier.quote_style {
        Some(_) => identifier.value.clone(),
        None => identifier.value.to_ascii_lowercase(),
    };
    check_name(&name).map_err(|error| error.at(position))?;
    Ok(name)
}

/// Monitors and their columns are named by lower-case letters, digits and underscores.
pub(crate) fn check_name(name: &str) -> Result<(), SqlError> {
    let hint = "use lower-case letters, digits and _, beginning with a letter or _, at most 63 of them";
    if name.contains('$') {
        return Err(SqlError::new(
            SqlErrorKind::Name,
            format!("{name:?} contains $, which is reserved"),
        )
        .hint("names with $ belong to what PyFlare derives from a monitor, such as <name>$late"));
    }
    let good = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.as_bytes()[0].is_ascii_digit()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match good {
        true => Ok(()),
        false => Err(SqlError::new(SqlErrorKind::Name, format!("{name:?} cannot be a name")).hint(hint)),
    }
}

/// A syntax error; the parser gives its place only inside the text.
pub(crate) fn syntax(error: &ParserError) -> SqlError {
    let text = match error {
        ParserError::RecursionLimitExceeded => return too_deep(),
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
    };
    let (message, position) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, read_place(place)),
        None => (text.as_str(), None),
    };
    let message = message
        .strip_prefix("Expected: ")
        .map_or_else(|| message.to_string(), |m| format!("expected {m}"));
    SqlError::new(SqlErrorKind::Syntax, message).at(position)
}

/// `3, Column: 14`
fn read_place(place: &str) -> Option<Position> {
    let (line, column) = place.split_once(", Column: ")?;
    Some(Position {
        line: line.trim().parse().ok()?,
        column: column.trim().parse().ok()?,
    })
}
