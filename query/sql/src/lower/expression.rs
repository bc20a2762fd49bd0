//! DataFusion's expressions become ours.
//!
//! What DataFusion says in several ways is said in one: `BETWEEN` is two comparisons, `IS NOT NULL` is a negated
//! `IS NULL`, chains of AND and OR are balanced trees, text constants have one type.

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr as logical;
use datafusion::logical_expr::{Between, BinaryExpr, Expr as Logical, Operator};
use pyflare_dataflows::Expr;
use pyflare_dataflows::plan::{BinaryOp, Branch, Literal, scalar_function};

use crate::error::{SqlError, SqlErrorKind};
use crate::now;

/// The columns an expression may read: DataFusion's names, and what we call them.
pub(super) struct Scope<'a> {
    pub schema: &'a DFSchema,
    pub names: &'a [String],
}

impl Scope<'_> {
    pub fn lower(&self, expr: &Logical) -> Result<Expr, SqlError> {
        Ok(match expr {
            Logical::Alias(alias) => self.lower(&alias.expr)?,
            Logical::Column(column) => {
                let index = self
                    .schema
                    .maybe_index_of_column(column)
                    .filter(|index| *index < self.names.len());
                match index {
                    Some(index) => Expr::Column(self.names[index].clone()),
                    None => {
                        let message = format!("the column {column} cannot be resolved");
                        return Err(SqlError::new(SqlErrorKind::Meaning, message));
                    }
                }
            }
            Logical::Literal(value, _) => literal(value)?,
            Logical::BinaryExpr(binary) => self.binary(binary)?,
            Logical::Not(inner) => Expr::Not(self.boxed(inner)?),
            Logical::Negative(inner) => Expr::Negate(self.boxed(inner)?),
            Logical::IsNull(inner) | Logical::IsUnknown(inner) => Expr::IsNull(self.boxed(inner)?),
            Logical::IsNotNull(inner) | Logical::IsNotUnknown(inner) => {
                negated(Expr::IsNull(self.boxed(inner)?))
            }
            Logical::IsTrue(inner) => Expr::IsTrue(self.boxed(inner)?),
            Logical::IsFalse(inner) => Expr::IsFalse(self.boxed(inner)?),
            Logical::IsNotTrue(inner) => negated(Expr::IsTrue(self.boxed(inner)?)),
            Logical::IsNotFalse(inner) => negated(Expr::IsFalse(self.boxed(inner)?)),
            Logical::Between(Between {
                expr,
                negated: not,
                low,
                high,
            }) => {
                let value = self.lower(expr)?;
                let between = value
                    .clone()
                    .binary(BinaryOp::GtEq, self.lower(low)?)
                    .and(value.binary(BinaryOp::LtEq, self.lower(high)?));
                if *not { negated(between) } else { between }
            }
            Logical::Like(like) => self.like(like)?,
            Logical::Case(case) => {
                let mut branches = Vec::with_capacity(case.when_then_expr.len());
                for (when, then) in &case.when_then_expr {
                    branches.push(Branch {
                        when: self.lower(when)?,
                        then: self.lower(then)?,
                    });
                }
                Expr::Case {
                    operand: case.expr.as_deref().map(|expr| self.boxed(expr)).transpose()?,
                    branches,
                    otherwise: case
                        .else_expr
                        .as_deref()
                        .map(|expr| self.boxed(expr))
                        .transpose()?,
                }
            }
            Logical::Cast(logical::Cast { expr, field }) => Expr::Cast {
                expr: self.boxed(expr)?,
                data_type: field.data_type().to_string(),
                try_: false,
            },
            Logical::TryCast(logical::TryCast { expr, field }) => Expr::Cast {
                expr: self.boxed(expr)?,
                data_type: field.data_type().to_string(),
                try_: true,
            },
            Logical::InList(list) => Expr::InList {
                expr: self.boxed(&list.expr)?,
                list: self.all(&list.list)?,
                negated: list.negated,
            },
            Logical::ScalarFunction(call) => {
                let name = call.name();
                if name == now::NAME {
                    return Err(now::misplaced());
                }
                if scalar_function(name).is_none() {
                    let message = format!("the function {name} is not decided by its arguments alone");
                    return Err(SqlError::new(SqlErrorKind::Volatile, message));
                }
                Expr::Call {
                    name: name.to_string(),
                    arguments: self.all(&call.args)?,
                }
            }
            other => {
                let message = format!("{other} cannot be maintained");
                return Err(SqlError::new(SqlErrorKind::Clause, message)
                    .hint("write it with columns, constants, operators, CASE and scalar functions"));
            }
        })
    }

    fn boxed(&self, expr: &Logical) -> Result<Box<Expr>, SqlError> {
        Ok(Box::new(self.lower(expr)?))
    }

    fn all(&self, list: &[Logical]) -> Result<Vec<Expr>, SqlError> {
        list.iter().map(|expr| self.lower(expr)).collect()
    }

    fn like(&self, like: &logical::Like) -> Result<Expr, SqlError> {
        if like.escape_char.is_some_and(|escape| escape != '\\') {
            return Err(
                SqlError::new(SqlErrorKind::Clause, "LIKE … ESCAPE takes no other sign than \\")
                    .hint("escape % and _ with a backslash"),
            );
        }
        Ok(Expr::Like {
            expr: self.boxed(&like.expr)?,
            pattern: self.boxed(&like.pattern)?,
            negated: like.negated,
            case_insensitive: like.case_insensitive,
        })
    }

    fn binary(&self, binary: &BinaryExpr) -> Result<Expr, SqlError> {
        let op = match binary.op {
            Operator::And | Operator::Or => {
                let mut operands = Vec::new();
                chain(&binary.left, binary.op, &mut operands);
                chain(&binary.right, binary.op, &mut operands);
                let op = if binary.op == Operator::And {
                    BinaryOp::And
                } else {
                    BinaryOp::Or
                };
                return Ok(balanced(op, self.all_refs(&operands)?));
            }
            Operator::Eq => BinaryOp::Eq,
            Operator::NotEq => BinaryOp::NotEq,
            Operator::Lt => BinaryOp::Lt,
            Operator::LtEq => BinaryOp::LtEq,
            Operator::Gt => BinaryOp::Gt,
            Operator::GtEq => BinaryOp::GtEq,
            Operator::Plus => BinaryOp::Plus,
            Operator::Minus => BinaryOp::Minus,
            Operator::Multiply => BinaryOp::Multiply,
            Operator::Divide => BinaryOp::Divide,
            Operator::Modulo => BinaryOp::Modulo,
            Operator::IsDistinctFrom => BinaryOp::IsDistinctFrom,
            Operator::IsNotDistinctFrom => BinaryOp::IsNotDistinctFrom,
            Operator::RegexMatch => BinaryOp::RegexMatch,
            Operator::RegexIMatch => BinaryOp::RegexIMatch,
            Operator::RegexNotMatch => BinaryOp::RegexNotMatch,
            Operator::RegexNotIMatch => BinaryOp::RegexNotIMatch,
            Operator::BitwiseAnd => BinaryOp::BitwiseAnd,
            Operator::BitwiseOr => BinaryOp::BitwiseOr,
            Operator::BitwiseXor => BinaryOp::BitwiseXor,
            Operator::BitwiseShiftRight => BinaryOp::BitwiseShiftRight,
            Operator::BitwiseShiftLeft => BinaryOp::BitwiseShiftLeft,
            Operator::StringConcat => BinaryOp::StringConcat,
            Operator::AtArrow => BinaryOp::Contains,
            Operator::ArrowAt => BinaryOp::ContainedBy,
            Operator::LikeMatch | Operator::ILikeMatch | Operator::NotLikeMatch | Operator::NotILikeMatch => {
                return Ok(Expr::Like {
                    expr: self.boxed(&binary.left)?,
                    pattern: self.boxed(&binary.right)?,
                    negated: matches!(binary.op, Operator::NotLikeMatch | Operator::NotILikeMatch),
                    case_insensitive: matches!(binary.op, Operator::ILikeMatch | Operator::NotILikeMatch),
                });
            }
            other => {
                return Err(SqlError::new(
                    SqlErrorKind::Clause,
                    format!("the operator {other} is not supported"),
                )
                .hint("attributes are read with attributes['key']"));
            }
        };
        Ok(self.lower(&binary.left)?.binary(op, self.lower(&binary.right)?))
    }

    fn all_refs(&self, list: &[&Logical]) -> Result<Vec<Expr>, SqlError> {
        list.iter().map(|expr| self.lower(expr)).collect()
    }
}

/// The operands of a chain of one operator.
fn chain<'a>(expr: &'a Logical, op: Operator, operands: &mut Vec<&'a Logical>) {
    match expr {
        Logical::BinaryExpr(binary) if binary.op == op => {
            chain(&binary.left, op, operands);
            chain(&binary.right, op, operands);
        }
        other => operands.push(other),
    }
}

/// A long chain as a tree of logarithmic depth: AND and OR are associative.
fn balanced(op: BinaryOp, mut operands: Vec<Expr>) -> Expr {
    while operands.len() > 1 {
        let mut halved = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            halved.push(match rest.next() {
                Some(right) => left.binary(op, right),
                None => left,
            });
        }
        operands = halved;
    }
    operands.pop().expect("invariant: a chain has operands")
}

fn negated(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

/// A constant; a constant list is the call that makes it.
fn literal(value: &ScalarValue) -> Result<Expr, SqlError> {
    if let ScalarValue::List(list) = value
        && !value.is_null()
    {
        let items = list.value(0);
        let mut arguments = Vec::with_capacity(items.len());
        for index in 0..items.len() {
            let item =
                ScalarValue::try_from_array(&items, index).map_err(|error| SqlError::planning(&error))?;
            arguments.push(literal(&item)?);
        }
        return Ok(Expr::Cast {
            expr: Box::new(Expr::Call {
                name: "make_array".into(),
                arguments,
            }),
            data_type: value.data_type().to_string(),
            try_: false,
        });
    }
    Literal::from_scalar(value).map(Expr::Literal).ok_or_else(|| {
        let found = pyflare_operators::fields::type_name(&value.data_type());
        SqlError::new(
            SqlErrorKind::Meaning,
            format!("a constant of type {found} cannot be part of a monitor"),
        )
        .hint("use text, numbers, booleans, times, intervals and lists of them")
    })
}
