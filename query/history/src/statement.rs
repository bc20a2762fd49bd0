//! A query's text becomes a statement: a query and nothing else, of a size that planning survives.
//!
//! The parser bounds how deep parentheses and subqueries nest, but not how long a chain is: `1 + 1 + …` or
//! `x::TEXT::TEXT…` becomes a tree as deep as it is long. Whatever walks, clones or frees such a tree calls itself once
//! a level, and 3,000 casts overflowed the 2 MiB that a thread usually has, which ends the whole process. So the words
//! of a query are counted before it is parsed, and threads that plan have [`STACK`] bytes.

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::depth;
use crate::failure::{Kind, Position, QueryError};

/// Most words and signs of a query; constants, commas and parentheses, of which long lists are made, not counted.
const MOST_WORDS: usize = 4_000;

/// Stack of a thread that plans [`MOST_WORDS`] words. Only what is touched takes memory.
pub const STACK: usize = 128 * 1024 * 1024;

/// Reads a query; everything that is none is refused.
pub fn read(session: &SessionState, query: &str) -> Result<Statement, QueryError> {
    check_words(query)?;
    let dialect = session.config_options().sql_parser.dialect;
    let statement = session
        .sql_to_statement(query, &dialect)
        .map_err(|error| QueryError::planning(&error))?;
    let mut explained = &statement;
    while let Statement::Explain(explain) = explained {
        explained = explain.statement.as_ref();
    }
    if let Statement::Statement(sql) = explained {
        depth::check(sql.as_ref())?;
    }
    match &statement {
        Statement::Statement(sql) => match sql.as_ref() {
            SqlStatement::Query(_)
            | SqlStatement::Explain { .. }
            | SqlStatement::ExplainTable { .. }
            | SqlStatement::ShowTables { .. }
            | SqlStatement::ShowColumns { .. }
            | SqlStatement::ShowFunctions { .. } => Ok(statement),
            _ => Err(read_only()),
        },
        Statement::Explain(_) => Ok(statement),
        _ => Err(read_only()),
    }
}

pub fn read_only() -> QueryError {
    QueryError::new(
        Kind::ReadOnly,
        "only queries can be run here: SELECT, WITH, VALUES, EXPLAIN, SHOW TABLES",
    )
    .with_hint("monitors are created with CREATE MONITOR; rows are sent over OTLP")
}

fn check_words(query: &str) -> Result<(), QueryError> {
    // A text that does not tokenize does not parse either; the parser says so better.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, query).tokenize_with_location() else {
        return Ok(());
    };
    let mut words = tokens.iter().filter(|token| deepens(&token.token));
    let Some(beyond) = words.nth(MOST_WORDS) else {
        return Ok(());
    };
    let message = format!("the query has more than {MOST_WORDS} words and signs");
    Err(QueryError {
        position: Some(Position {
            line: beyond.span.start.line,
            column: beyond.span.start.column,
        }),
        ..QueryError::new(Kind::TooLong, message)
            .with_hint("write long chains of OR as IN (…), or pass a list as a parameter: $1")
    })
}

/// Whether one more of these can make a tree one level deeper.
fn deepens(token: &Token) -> bool {
    !matches!(
        token,
        Token::EOF
            | Token::Whitespace(_)
            | Token::Comma
            | Token::LParen
            | Token::RParen
            | Token::Number(..)
            | Token::SingleQuotedString(_)
    )
}
