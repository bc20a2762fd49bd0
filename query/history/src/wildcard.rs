//! `SELECT *` does not show the hidden columns of a stream, although they can be named.
//!
//! Most queries never mention a hidden column: for them the streams simply do not have any, and nothing is rewritten.
//! In a query that mentions one, `*` and `spans.*` become `… EXCLUDE (_tick, …)` for the streams that stand in the
//! `FROM` of the same `SELECT`. What a subquery selects by name is an ordinary column of the subquery.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::failure::{Kind, QueryError};

/// Whether the text names a hidden column anywhere (outside of string literals).
pub fn mentions(text: &str, hidden: &[String]) -> bool {
    // A text that does not tokenize does not parse either; the parser says so better.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else {
        return false;
    };
    tokens.iter().any(|token| match token {
        Token::Word(word) => hidden
            .iter()
            .any(|column| column.eq_ignore_ascii_case(&word.value)),
        _ => false,
    })
}

/// Rewrites the wildcards of a statement. `is_stream` says whether a table's name means a stream; `hidden` are the
/// columns that all streams hide.
pub fn hide(
    statement: &mut impl VisitMut,
    hidden: &[String],
    is_stream: &dyn Fn(&ObjectName) -> bool,
) -> Result<(), QueryError> {
    let mut names = CommonTableNames::default();
    let _ = statement.visit(&mut names);
    let mut rewriter = Rewriter {
        hidden,
        is_stream,
        common: names.0,
        failure: None,
    };
    let _ = statement.visit(&mut rewriter);
    match rewriter.failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// The names of all common table expressions, which shadow streams.
#[derive(Default)]
struct CommonTableNames(HashSet<String>);

impl VisitorMut for CommonTableNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.0.extend(
                with.cte_tables
                    .iter()
                    .map(|table| table.alias.name.value.to_lowercase()),
            );
        }
        ControlFlow::Continue(())
    }
}

struct Rewriter<'a> {
    hidden: &'a [String],
    is_stream: &'a dyn Fn(&ObjectName) -> bool,
    common: HashSet<String>,
    failure: Option<QueryError>,
}

/// A relation in a `FROM`.
struct Source {
    qualifier: ObjectName,
    is_stream: bool,
    /// Columns that a `USING` has already given.
    shared: Vec<Ident>,
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let has_wildcard = select.projection.iter().any(|item| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _)
            )
        });
        if !has_wildcard {
            return ControlFlow::Continue(());
        }
        match self.sources(select) {
            Ok(sources) if sources.iter().any(|source| source.is_stream) => {
                let items = std::mem::take(&mut select.projection);
                select.projection = items
                    .into_iter()
                    .flat_map(|item| self.expand(item, &sources))
                    .collect();
                ControlFlow::Continue(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }
}

impl Rewriter<'_> {
    fn sources(&self, select: &Select) -> Result<Vec<Source>, QueryError> {
        let mut sources = Vec::new();
        for table in &select.from {
            sources.extend(self.source(&table.relation, Vec::new()));
            for join in &table.joins {
                let shared = match constraint(&join.join_operator) {
                    Some(JoinConstraint::Using(columns)) => columns
                        .iter()
                        .filter_map(|column| column.0.last()?.as_ident().cloned())
                        .collect(),
                    Some(JoinConstraint::Natural) => {
                        return Err(QueryError::new(
                            Kind::Planning,
                            "NATURAL JOIN would also join by the hidden columns that this query names",
                        )
                        .with_hint("write JOIN … USING (column, …)"));
                    }
                    _ => Vec::new(),
                };
                sources.extend(self.source(&join.relation, shared));
            }
        }
        Ok(sources)
    }

    fn source(&self, factor: &TableFactor, shared: Vec<Ident>) -> Option<Source> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                let bare = name.0.len() == 1;
                let shadowed = bare && self.common.contains(&name.to_string().to_lowercase());
                let qualifier = alias
                    .as_ref()
                    .map_or_else(|| name.clone(), |alias| alias.name.clone().into());
                Some(Source {
                    qualifier,
                    is_stream: !shadowed && (self.is_stream)(name),
                    shared,
                })
            }
            TableFactor::Derived {
                alias: Some(alias), ..
            } => Some(Source {
                qualifier: alias.name.clone().into(),
                is_stream: false,
                shared,
            }),
            _ => None,
        }
    }

    fn expand(&self, item: SelectItem, sources: &[Source]) -> Vec<SelectItem> {
        match item {
            // One relation: the wildcard stays what it is, with more excluded.
            SelectItem::Wildcard(options) if sources.len() == 1 => {
                vec![SelectItem::Wildcard(without(
                    options,
                    self.hidden.iter().map(Ident::new),
                ))]
            }
            SelectItem::Wildcard(options) => sources
                .iter()
                .map(|source| {
                    let hidden = if source.is_stream { self.hidden } else { &[] };
                    let left_out = hidden.iter().map(Ident::new).chain(source.shared.iter().cloned());
                    let options = without(options.clone(), left_out);
                    let kind = SelectItemQualifiedWildcardKind::ObjectName(source.qualifier.clone());
                    SelectItem::QualifiedWildcard(kind, options)
                })
                .collect(),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                let stream = sources.iter().any(|source| {
                    source.is_stream
                        && source
                            .qualifier
                            .to_string()
                            .eq_ignore_ascii_case(&name.to_string())
                });
                let hidden = if stream { self.hidden } else { &[] };
                let options = without(options, hidden.iter().map(Ident::new));
                vec![SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                )]
            }
            other => vec![other],
        }
    }
}

/// Adds columns to those that a wildcard leaves out.
fn without(
    mut options: WildcardAdditionalOptions,
    left_out: impl Iterator<Item = Ident>,
) -> WildcardAdditionalOptions {
    let mut names: Vec<ObjectName> = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    if let Some(except) = options.opt_except.take() {
        names.push(except.first_element.into());
        names.extend(except.additional_elements.into_iter().map(ObjectName::from));
    }
    for column in left_out {
        if !names
            .iter()
            .any(|name| name.to_string().eq_ignore_ascii_case(&column.value))
        {
            names.push(column.into());
        }
    }
    options.opt_exclude = (!names.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
    options
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::LeftAnti(constraint) => Some(constraint),
        _ => None,
    }
}
