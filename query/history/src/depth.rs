//! How deep the expressions of a query are, before anything that calls itself once a level sees them.
//!
//! The parser bounds how deep parentheses and subqueries nest, but `a + a + …` becomes a tree as deep as it is long, and
//! planning takes more than the square of that: 800 terms took 14 seconds, and a query that is being planned cannot be
//! stopped. Subqueries add up, because the optimizer puts their expressions into each other. AND and OR do not count:
//! the planner balances them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Select, TableFactor, Visit, Visitor};

use crate::failure::{Kind, QueryError};

/// Most SELECTs and relations of a query, joined or united: planning takes the square of them too.
const MOST_RELATIONS: usize = 200;

/// Most levels: those of the deepest expression of each SELECT, added up.
const DEEPEST: usize = 400;

/// Refuses a query that is too deep to be planned in reasonable time.
pub fn check(statement: &impl Visit) -> Result<(), QueryError> {
    match statement.visit(&mut Depth::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => {
            Err(QueryError::new(Kind::TooLong, message).with_hint("compute less in one query"))
        }
    }
}

#[derive(Default)]
struct Depth {
    /// Of the expression that is being visited, within its SELECT.
    here: usize,
    /// Of the deepest expression of this SELECT.
    deepest: usize,
    /// The same two of the SELECTs around this one.
    around: Vec<(usize, usize)>,
    /// Of all SELECTs that are done.
    total: usize,
    relations: usize,
}

impl Depth {
    fn one_more_relation(&mut self) -> ControlFlow<String> {
        self.relations += 1;
        match self.relations > MOST_RELATIONS {
            true => ControlFlow::Break(format!(
                "the query has more than {MOST_RELATIONS} SELECTs and relations"
            )),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Visitor for Depth {
    type Break = String;

    fn pre_visit_select(&mut self, _select: &Select) -> ControlFlow<String> {
        self.around.push((self.here, self.deepest));
        (self.here, self.deepest) = (0, 0);
        self.one_more_relation()
    }

    fn post_visit_select(&mut self, _select: &Select) -> ControlFlow<String> {
        self.total += self.deepest;
        (self.here, self.deepest) = self.around.pop().unwrap_or_default();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, _relation: &TableFactor) -> ControlFlow<String> {
        self.one_more_relation()
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        self.here += usize::from(deepens(expr));
        self.deepest = self.deepest.max(self.here);
        match self.total + self.deepest > DEEPEST {
            true => ControlFlow::Break(format!(
                "the expressions of the query are more than {DEEPEST} operators deep"
            )),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        self.here -= usize::from(deepens(expr));
        ControlFlow::Continue(())
    }
}

fn deepens(expr: &Expr) -> bool {
    let balanced = matches!(
        expr,
        Expr::BinaryOp {
            op: BinaryOperator::And | BinaryOperator::Or,
            ..
        }
    );
    !balanced && !matches!(expr, Expr::Nested(_))
}
