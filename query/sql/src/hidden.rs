//! The origin columns of a stream (`_tick`, `_offset`, …) can be selected by name but are not in `SELECT *`.
//!
//! The planner has no hidden columns, so a `*` over a stream is rewritten to `* EXCLUDE (_tick, …)`. What a
//! subquery selects by name is not hidden any more.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, TableFactor,
    VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use pyflare_operators::streams::ORIGIN_COLUMNS;

use crate::catalog::stream_named;
use crate::window::{expression, function_name};

/// Whether a column of this name belongs to the origin of a row.
pub(crate) fn is_hidden(name: &str) -> bool {
    ORIGIN_COLUMNS.contains(&name)
}

/// Leaves the origin out of every `*` over a stream; `users` are the names of those that users declared.
pub(crate) fn hide(query: &mut Query, users: &[&str]) {
    let mut visitor = Hide {
        users: users.iter().map(|name| (*name).to_string()).collect(),
        named_queries: BTreeSet::new(),
    };
    let _: ControlFlow<()> = query.visit(&mut visitor);
}

struct Hide {
    users: BTreeSet<String>,
    /// Names that WITH gives to queries: they hide the stream of the same name.
    named_queries: BTreeSet<String>,
}

impl VisitorMut for Hide {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for named in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.named_queries.insert(normalised(&named.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let over_stream = match select.from.as_slice() {
            [only] => self.is_over_stream(&only.relation),
            _ => false,
        };
        if !over_stream {
            return ControlFlow::Continue(());
        }
        for item in &mut select.projection {
            if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                exclude(options);
            }
        }
        ControlFlow::Continue(())
    }
}

impl Hide {
    fn is_over_stream(&self, relation: &TableFactor) -> bool {
        let TableFactor::Table { name, args, .. } = relation else {
            return false;
        };
        let identifier = match args {
            None => match name.0.as_slice() {
                [ObjectNamePart::Identifier(identifier)] => identifier,
                _ => return false,
            },
            Some(arguments) if matches!(function_name(name).as_deref(), Some("tumble" | "hop")) => {
                match arguments.args.first().and_then(expression) {
                    Some(Expr::Identifier(identifier)) => identifier,
                    _ => return false,
                }
            }
            Some(_) => return false,
        };
        let name = normalised(identifier);
        let is_stream = stream_named(&name).is_some() || self.users.contains(&name);
        is_stream && !self.named_queries.contains(&name)
    }
}

fn normalised(identifier: &Ident) -> String {
    match identifier.quote_style {
        Some(_) => identifier.value.clone(),
        None => identifier.value.to_ascii_lowercase(),
    }
}

fn exclude(options: &mut WildcardAdditionalOptions) {
    let mut names: Vec<ObjectName> = match options.opt_exclude.take() {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
    };
    let excepted = options.opt_except.iter().flat_map(|except| {
        std::iter::once(&except.first_element)
            .chain(&except.additional_elements)
            .map(normalised)
    });
    let mut already: BTreeSet<String> = excepted.collect();
    already.extend(names.iter().filter_map(|name| match name.0.as_slice() {
        [ObjectNamePart::Identifier(identifier)] => Some(normalised(identifier)),
        _ => None,
    }));
    for column in ORIGIN_COLUMNS
        .into_iter()
        .filter(|column| !already.contains(*column))
    {
        names.push(ObjectName(vec![ObjectNamePart::Identifier(Ident::new(column))]));
    }
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
}
