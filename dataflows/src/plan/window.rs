//! Window functions over one partition, evaluated by DataFusion.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, WindowUDF,
};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::windows::create_window_expr;
use datafusion::scalar::ScalarValue;

use super::{
    Expr, Frame, FrameBound, FrameUnit, FramedAggregate, OrderKey, PlanError, WindowColumn, compile, guarded,
};

/// The window functions that a monitor may use: those whose value a partition and its order decide exactly.
pub fn window_functions() -> Vec<Arc<WindowUDF>> {
    datafusion::functions_window::all_default_window_functions()
}

/// Compiled window functions of one partitioning and order.
pub(crate) struct Windowing {
    functions: Vec<Arc<dyn WindowExpr>>,
    schema: SchemaRef,
}

impl Windowing {
    /// For rows of `input`; `partition` only has to be valid: what is run is one partition.
    pub fn compile(
        partition: &[Expr],
        order: &[OrderKey],
        functions: &[WindowColumn],
        aggregates: &[FramedAggregate],
        input: &SchemaRef,
    ) -> Result<Windowing, PlanError> {
        for expr in partition {
            compile(expr, input)?;
        }
        let mut sorting = Vec::with_capacity(order.len());
        for key in order {
            sorting.push(PhysicalSortExpr {
                expr: compile(&key.expr, input)?,
                options: SortOptions {
                    descending: key.descending,
                    nulls_first: key.nulls_first,
                },
            });
        }
        let known = window_functions();
        let mut compiled = Vec::with_capacity(functions.len());
        let mut fields: Vec<Field> = input
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        for column in functions {
            let failed = |error: DataFusionError| PlanError::Expression {
                expression: column.function.clone(),
                detail: error.strip_backtrace(),
            };
            let function = known
                .iter()
                .find(|function| function.name() == column.function)
                .ok_or_else(|| PlanError::Unsupported {
                    detail: format!("the window function {}", column.function),
                })?;
            let arguments: Vec<Arc<dyn PhysicalExpr>> = column
                .arguments
                .iter()
                .map(|argument| compile(argument, input))
                .collect::<Result<_, _>>()?;
            let expression = create_window_expr(
                &WindowFunctionDefinition::WindowUDF(Arc::clone(function)),
                column.name.clone(),
                &arguments,
                &[],
                &sorting,
                Arc::new(frame(column.frame)),
                Arc::clone(input),
                column.ignore_nulls,
                false,
                None,
            )
            .map_err(failed)?;
            let field = expression.field().map_err(failed)?;
            fields.push(Field::new(&column.name, field.data_type().clone(), true));
            compiled.push(expression);
        }
        for column in aggregates {
            fields.push(column.aggregate.field(input)?.with_nullable(true));
        }
        Ok(Windowing {
            functions: compiled,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The input's columns, then one for each function, then one for each aggregate.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Evaluates over the rows of one partition, in its order; `framed` are the aggregates' columns.
    pub fn run(
        &self,
        partition: &RecordBatch,
        framed: Vec<ArrayRef>,
    ) -> Result<RecordBatch, DataFusionError> {
        let mut columns = partition.columns().to_vec();
        for function in &self.functions {
            columns.push(guarded(|| function.evaluate(partition))?);
        }
        columns.extend(framed);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The frame for DataFusion.
pub(crate) fn frame(frame: Frame) -> WindowFrame {
    let units = match frame.unit {
        FrameUnit::Rows => WindowFrameUnits::Rows,
        FrameUnit::Range => WindowFrameUnits::Range,
        FrameUnit::Groups => WindowFrameUnits::Groups,
    };
    let bound = |bound: FrameBound| match bound {
        FrameBound::Preceding(rows) => WindowFrameBound::Preceding(ScalarValue::UInt64(rows)),
        FrameBound::CurrentRow => WindowFrameBound::CurrentRow,
        FrameBound::Following(rows) => WindowFrameBound::Following(ScalarValue::UInt64(rows)),
    };
    WindowFrame::new_bounds(units, bound(frame.start), bound(frame.end))
}
