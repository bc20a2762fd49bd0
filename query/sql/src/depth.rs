//! How deep the expressions of a statement are, before anything that calls itself once a level sees them.
//!
//! The parser bounds how deep parentheses and subqueries nest, but `a + a + …` and `x::TEXT::TEXT…` become trees as deep
//! as they are long, and planning takes the square of that: 1,900 terms took 27 seconds. Subqueries add up, because the
//! optimizer puts their expressions into each other. AND and OR do not count: the planner balances them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, Select, Visit, Visitor};

use crate::error::{SqlError, SqlErrorKind};

/// Most levels: those of the deepest expression of each SELECT, added up.
const DEEPEST: usize = 200;

/// Refuses a query that is too deep to be planned in reasonable time.
pub(crate) fn check(query: &Query) -> Result<(), SqlError> {
    match query.visit(&mut Depth::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(SqlError::new(
            SqlErrorKind::Limit,
            format!("the expressions are more than {DEEPEST} operators deep"),
        )
        .hint("compute less in one monitor; long chains of OR may be written as IN (…)")),
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
}

impl Visitor for Depth {
    type Break = ();

    fn pre_visit_select(&mut self, _select: &Select) -> ControlFlow<()> {
        self.around.push((self.here, self.deepest));
        (self.here, self.deepest) = (0, 0);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _select: &Select) -> ControlFlow<()> {
        self.total += self.deepest;
        (self.here, self.deepest) = self.around.pop().unwrap_or_default();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.here += usize::from(deepens(expr));
        self.deepest = self.deepest.max(self.here);
        match self.total + self.deepest > DEEPEST {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
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
