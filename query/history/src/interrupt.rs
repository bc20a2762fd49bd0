//! Stopping a query that does not stop by itself.
//!
//! Operators give way between batches, so dropping a query's stream ends most of them at once. A join does not: it
//! works through millions of pairs within one poll, and its thread was seen to go on for more than 20 s after the query
//! was gone. So every join gets one more condition, `alive(left, right)`: always true, and an error once the query is
//! cancelled. It is volatile and names both sides, so it stays in the join and is asked batch by batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Join, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// Set when a query's time is up or nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the joins of an optimized plan ask.
    pub fn watch(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let alive = Arc::new(ScalarUDF::new_from_impl(Alive {
            signature: Signature::variadic_any(Volatility::Volatile),
            interrupt: self.clone(),
        }));
        let watched = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) => watch_join(join, &alive),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(watched.data)
    }
}

fn watch_join(mut join: Join, alive: &Arc<ScalarUDF>) -> Result<Transformed<LogicalPlan>> {
    let column = |plan: &LogicalPlan| plan.schema().columns().into_iter().next();
    let (Some(left), Some(right)) = (column(&join.left), column(&join.right)) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    // A NOT IN that respects nulls must not have any other condition.
    if join.null_aware {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let asks = Expr::ScalarFunction(ScalarFunction {
        func: Arc::clone(alive),
        args: vec![Expr::Column(left), Expr::Column(right)],
    });
    join.filter = Some(match join.filter.take() {
        Some(filter) => asks.and(filter),
        None => asks,
    });
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

#[derive(Debug)]
struct Alive {
    signature: Signature,
    interrupt: Interrupt,
}

impl PartialEq for Alive {
    fn eq(&self, other: &Alive) -> bool {
        Arc::ptr_eq(&self.interrupt.0, &other.interrupt.0)
    }
}

impl Eq for Alive {}

impl std::hash::Hash for Alive {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.interrupt.0).hash(state);
    }
}

impl ScalarUDFImpl for Alive {
    fn name(&self) -> &str {
        "alive"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if self.interrupt.is_set() {
            return Err(DataFusionError::Execution("the query was cancelled".to_owned()));
        }
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
    }
}
