//! From [`Expr`] to DataFusion's `PhysicalExpr`.
//!
//! The way there: our expression becomes a logical one, DataFusion coerces what is still open (the plan carries
//! explicit casts, but a text literal does not know whether its partner is `Utf8` or `Utf8View`), constants are
//! cast once instead of per batch, and integer arithmetic is made to fail instead of wrapping.
//!
//! Only deterministic functions are registered.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRewriter};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr as logical;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{BinaryExpr, Expr as Logical, ExprSchemable, Operator, ScalarUDF, Volatility};
use datafusion::optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion::physical_expr::expressions::BinaryExpr as PhysicalBinary;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use super::{BinaryOp, Branch, Expr};
use crate::plan::PlanError;

/// What DataFusion offers and cannot evaluate: `map_entries` names the parts of an entry otherwise than its maps do.
const BROKEN: [&str; 1] = ["map_entries"];

/// The deterministic scalar functions, by canonical name and by alias.
pub fn scalar_functions() -> &'static BTreeMap<String, Arc<ScalarUDF>> {
    static FUNCTIONS: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
        let mut functions = BTreeMap::new();
        let all = datafusion::functions::all_default_functions()
            .into_iter()
            .chain(datafusion::functions_nested::all_default_nested_functions());
        for function in all.filter(|function| function.signature().volatility == Volatility::Immutable) {
            if BROKEN.contains(&function.name()) {
                continue;
            }
            for name in function.aliases().iter().chain([&function.name().to_string()]) {
                functions.insert(name.clone(), Arc::clone(&function));
            }
        }
        functions
    });
    &FUNCTIONS
}

/// A deterministic scalar function by name or alias.
pub fn scalar_function(name: &str) -> Option<Arc<ScalarUDF>> {
    scalar_functions().get(name).cloned()
}

/// Compiles `expr` for batches of `schema`.
///
/// Evaluation fails as a whole if one row fails (division by zero, overflow, a cast that does not fit); a row is
/// bad if it fails alone.
pub fn compile(expr: &Expr, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>, PlanError> {
    for name in expr.columns() {
        if schema.index_of(&name).is_err() {
            let available = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect::<Vec<_>>();
            return Err(PlanError::UnknownColumn {
                name,
                available: available.join(", "),
            });
        }
    }
    let failed = |error: DataFusionError| PlanError::Expression {
        expression: expr.to_string(),
        detail: error.strip_backtrace(),
    };
    let df_schema = DFSchema::try_from(schema.clone()).map_err(failed)?;
    let coerced = to_logical(expr)?
        .rewrite(&mut TypeCoercionRewriter::new(&df_schema))
        .and_then(|coerced| coerced.data.rewrite(&mut Finish { schema: &df_schema }))
        .map_err(failed)?
        .data;
    let planning = PhysicalPlanningContext::default();
    let physical =
        create_physical_expr(&coerced, &df_schema, &ExecutionProps::new(), &planning).map_err(failed)?;
    let checked = physical
        .transform_up(|node| Ok(failing_on_overflow(node)))
        .map_err(failed)?
        .data;
    // Types that do not fit show themselves here, not at the first row.
    checked.data_type(schema).map_err(failed)?;
    Ok(checked)
}

/// After coercion: constants are cast once, integers are negated by a subtraction that notices overflow.
struct Finish<'a> {
    schema: &'a DFSchema,
}

impl TreeNodeRewriter for Finish<'_> {
    type Node = Logical;

    fn f_up(&mut self, node: Logical) -> DataFusionResult<Transformed<Logical>> {
        match node {
            Logical::Cast(logical::Cast { expr, field }) => {
                if let Logical::Literal(value, metadata) = expr.as_ref()
                    && let Ok(value) = value.cast_to(field.data_type())
                {
                    return Ok(Transformed::yes(Logical::Literal(value, metadata.clone())));
                }
                Ok(Transformed::no(Logical::Cast(logical::Cast { expr, field })))
            }
            Logical::Negative(inner) => {
                let data_type = inner.get_type(self.schema)?;
                if !data_type.is_signed_integer() {
                    return Ok(Transformed::no(Logical::Negative(inner)));
                }
                let zero = Logical::Literal(ScalarValue::new_zero(&data_type)?, None);
                Ok(Transformed::yes(Logical::BinaryExpr(BinaryExpr::new(
                    Box::new(zero),
                    Operator::Minus,
                    inner,
                ))))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

fn failing_on_overflow(node: Arc<dyn PhysicalExpr>) -> Transformed<Arc<dyn PhysicalExpr>> {
    match node.downcast_ref::<PhysicalBinary>() {
        Some(binary) if matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply) => {
            Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)))
        }
        _ => Transformed::no(node),
    }
}

fn to_logical(expr: &Expr) -> Result<Logical, PlanError> {
    let unreadable = |detail: String| PlanError::Expression {
        expression: expr.to_string(),
        detail,
    };
    Ok(match expr {
        Expr::Column(name) => Logical::Column(Column::new_unqualified(name)),
        Expr::Literal(literal) => Logical::Literal(
            literal
                .to_scalar()
                .ok_or_else(|| unreadable("the value does not have its type".into()))?,
            None,
        ),
        Expr::Binary { op, left, right } => {
            Logical::BinaryExpr(BinaryExpr::new(boxed(left)?, operator(*op), boxed(right)?))
        }
        Expr::Not(inner) => Logical::Not(boxed(inner)?),
        Expr::Negate(inner) => Logical::Negative(boxed(inner)?),
        Expr::IsNull(inner) => Logical::IsNull(boxed(inner)?),
        Expr::IsTrue(inner) => Logical::IsTrue(boxed(inner)?),
        Expr::IsFalse(inner) => Logical::IsFalse(boxed(inner)?),
        Expr::Cast {
            expr: inner,
            data_type,
            try_,
        } => {
            let data_type = DataType::from_str(data_type).map_err(|error| unreadable(error.to_string()))?;
            if *try_ {
                Logical::TryCast(logical::TryCast::new(boxed(inner)?, data_type))
            } else {
                Logical::Cast(logical::Cast::new(boxed(inner)?, data_type))
            }
        }
        Expr::Case {
            operand,
            branches,
            otherwise,
        } => {
            let mut when_then = Vec::with_capacity(branches.len());
            for Branch { when, then } in branches {
                when_then.push((boxed(when)?, boxed(then)?));
            }
            Logical::Case(logical::Case::new(
                operand.as_deref().map(boxed).transpose()?,
                when_then,
                otherwise.as_deref().map(boxed).transpose()?,
            ))
        }
        Expr::InList {
            expr: inner,
            list,
            negated,
        } => Logical::InList(logical::InList::new(boxed(inner)?, all(list)?, *negated)),
        Expr::Like {
            expr: inner,
            pattern,
            negated,
            case_insensitive,
        } => Logical::Like(logical::Like::new(
            *negated,
            boxed(inner)?,
            boxed(pattern)?,
            None,
            *case_insensitive,
        )),
        Expr::Call { name, arguments } => {
            let function = scalar_function(name)
                .ok_or_else(|| unreadable(format!("there is no deterministic function {name}")))?;
            Logical::ScalarFunction(logical::ScalarFunction::new_udf(function, all(arguments)?))
        }
    })
}

fn boxed(expr: &Expr) -> Result<Box<Logical>, PlanError> {
    Ok(Box::new(to_logical(expr)?))
}

fn all(list: &[Expr]) -> Result<Vec<Logical>, PlanError> {
    list.iter().map(to_logical).collect()
}

fn operator(op: BinaryOp) -> Operator {
    match op {
        BinaryOp::Eq => Operator::Eq,
        BinaryOp::NotEq => Operator::NotEq,
        BinaryOp::Lt => Operator::Lt,
        BinaryOp::LtEq => Operator::LtEq,
        BinaryOp::Gt => Operator::Gt,
        BinaryOp::GtEq => Operator::GtEq,
        BinaryOp::Plus => Operator::Plus,
        BinaryOp::Minus => Operator::Minus,
        BinaryOp::Multiply => Operator::Multiply,
        BinaryOp::Divide => Operator::Divide,
        BinaryOp::Modulo => Operator::Modulo,
        BinaryOp::And => Operator::And,
        BinaryOp::Or => Operator::Or,
        BinaryOp::IsDistinctFrom => Operator::IsDistinctFrom,
        BinaryOp::IsNotDistinctFrom => Operator::IsNotDistinctFrom,
        BinaryOp::RegexMatch => Operator::RegexMatch,
        BinaryOp::RegexIMatch => Operator::RegexIMatch,
        BinaryOp::RegexNotMatch => Operator::RegexNotMatch,
        BinaryOp::RegexNotIMatch => Operator::RegexNotIMatch,
        BinaryOp::BitwiseAnd => Operator::BitwiseAnd,
        BinaryOp::BitwiseOr => Operator::BitwiseOr,
        BinaryOp::BitwiseXor => Operator::BitwiseXor,
        BinaryOp::BitwiseShiftRight => Operator::BitwiseShiftRight,
        BinaryOp::BitwiseShiftLeft => Operator::BitwiseShiftLeft,
        BinaryOp::StringConcat => Operator::StringConcat,
        BinaryOp::Contains => Operator::AtArrow,
        BinaryOp::ContainedBy => Operator::ArrowAt,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, StringViewArray};
    use arrow::array::{MapBuilder, StringBuilder};
    use arrow::datatypes::{Field, Int64Type, SchemaRef};
    use datafusion::physical_expr::expressions::Literal as PhysicalLiteral;

    use super::*;
    use crate::plan::Literal;

    fn rows() -> RecordBatch {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for value in ["7", "8"] {
            map.keys().append_value("k");
            map.values().append_value(value);
            map.append(true).unwrap();
        }
        let map = map.finish();
        let columns: [(&str, Arc<dyn Array>); 5] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), Some(i64::MAX)]))),
            ("d", Arc::new(Int64Array::from(vec![Some(0), Some(2)]))),
            ("view", Arc::new(StringViewArray::from(vec![Some("a"), None]))),
            ("text", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("attributes", Arc::new(map)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn evaluate(expr: &Expr) -> DataFusionResult<Arc<dyn Array>> {
        let rows = rows();
        compile(expr, &rows.schema())
            .unwrap()
            .evaluate(&rows)?
            .into_array(rows.num_rows())
    }

    fn schema() -> SchemaRef {
        rows().schema()
    }

    #[test]
    fn integer_overflow_and_division_by_zero_are_errors() {
        let n = || Expr::column("n");
        assert!(evaluate(&n().binary(BinaryOp::Plus, Expr::int64(1))).is_err());
        assert!(evaluate(&n().binary(BinaryOp::Multiply, Expr::int64(2))).is_err());
        assert!(evaluate(&Expr::int64(-2).binary(BinaryOp::Minus, n())).is_err());
        assert!(evaluate(&n().binary(BinaryOp::Divide, Expr::column("d"))).is_err());
        let negated = Expr::Negate(Box::new(n().binary(BinaryOp::Minus, Expr::int64(1))));
        assert_eq!(
            evaluate(&negated).unwrap().as_primitive::<Int64Type>().values(),
            &[0, 1 - i64::MAX]
        );
        let smallest = Expr::Negate(Box::new(
            Expr::Negate(Box::new(n())).binary(BinaryOp::Minus, Expr::int64(1)),
        ));
        assert!(evaluate(&smallest).is_err());
    }

    #[test]
    fn one_kind_of_text_constant_meets_both_kinds_of_text_column() {
        for column in ["view", "text"] {
            let equal = evaluate(&Expr::column(column).equals(Expr::text("a"))).unwrap();
            assert!(equal.as_boolean().value(0), "{column}");
            let list = Expr::InList {
                expr: Box::new(Expr::column(column)),
                list: vec![Expr::text("a"), Expr::text("c")],
                negated: false,
            };
            assert!(evaluate(&list).unwrap().as_boolean().value(0), "{column}");
        }
        assert!(
            evaluate(&Expr::column("view").equals(Expr::column("text")))
                .unwrap()
                .as_boolean()
                .value(0)
        );
    }

    #[test]
    fn maps_are_read_by_key() {
        let value = |key: &str| Expr::call("get_field", vec![Expr::column("attributes"), Expr::text(key)]);
        let cast = Expr::Cast {
            expr: Box::new(value("k")),
            data_type: "Int64".into(),
            try_: false,
        };
        assert_eq!(
            evaluate(&cast).unwrap().as_primitive::<Int64Type>().values(),
            &[7, 8]
        );
        assert_eq!(evaluate(&value("missing")).unwrap().null_count(), 2);
        assert_eq!(value("k").to_string(), "attributes['k']");
    }

    #[test]
    fn constants_are_cast_once() {
        let physical = compile(&Expr::column("view").equals(Expr::text("a")), &schema()).unwrap();
        let right = physical.children()[1];
        assert!(right.downcast_ref::<PhysicalLiteral>().is_some(), "{right}");
    }

    #[test]
    fn what_is_unknown_or_not_deterministic_does_not_compile() {
        let code = |expr: &Expr| compile(expr, &schema()).unwrap_err().code();
        assert_eq!(code(&Expr::column("nosuch")), "PF-3101");
        for name in ["now", "random", "uuid", "current_date", "nosuch"] {
            assert_eq!(code(&Expr::call(name, Vec::new())), "PF-3103", "{name}");
        }
        let mistyped = Expr::Cast {
            expr: Box::new(Expr::int64(1)),
            data_type: "Number".into(),
            try_: false,
        };
        assert_eq!(code(&mistyped), "PF-3103");
    }

    #[test]
    fn expressions_survive_json() {
        let constants = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            0.1,
            f64::MIN_POSITIVE,
            1e300,
        ];
        let floats = constants.map(Expr::float64).to_vec();
        let scalars = [
            ScalarValue::Decimal128(Some(-12_345), 38, 12),
            ScalarValue::TimestampNanosecond(Some(1), None),
            ScalarValue::TimestampMicrosecond(Some(-1), Some("UTC".into())),
            ScalarValue::Date32(Some(20_000)),
            ScalarValue::Float32(Some(0.1)),
            ScalarValue::UInt64(Some(u64::MAX)),
            ScalarValue::Utf8View(None),
            ScalarValue::Null,
            ScalarValue::new_interval_mdn(1, -2, 3),
        ];
        let others = scalars.iter().map(|scalar| {
            let literal = Literal::from_scalar(scalar).unwrap();
            let back = literal.to_scalar().unwrap();
            assert!(back == *scalar || scalar.is_null(), "{scalar:?} became {back:?}");
            Expr::Literal(literal)
        });
        let list = floats.into_iter().chain(others).collect();
        let expr = Expr::InList {
            expr: Box::new(Expr::column("n")),
            list,
            negated: true,
        };
        let again: Expr = serde_json::from_str(&serde_json::to_string(&expr).unwrap()).unwrap();
        assert_eq!(again, expr);
        assert_eq!(again.columns().into_iter().collect::<Vec<_>>(), ["n"]);
    }

    #[test]
    fn negative_floats_keep_the_sign_of_zero() {
        let batch = RecordBatch::try_new(
            Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, true)])),
            vec![Arc::new(Float64Array::from(vec![0.0]))],
        )
        .unwrap();
        let negated = compile(&Expr::Negate(Box::new(Expr::column("f"))), &batch.schema()).unwrap();
        let value = negated.evaluate(&batch).unwrap().into_array(1).unwrap();
        assert!(
            value
                .as_primitive::<arrow::datatypes::Float64Type>()
                .value(0)
                .is_sign_negative()
        );
    }
}
