//! Scalar expressions of a plan: what is computed from the columns of one row.
//!
//! An [`Expr`] is plain data: it serializes, compares and prints without knowing any engine, and two expressions
//! that mean the same column by column are equal. [`compile`] turns one into a DataFusion `PhysicalExpr` that
//! evaluates whole Arrow batches.
//!
//! Invariants: an expression is deterministic (a retraction evaluates to exactly the row that was inserted), so
//! functions that read a clock or a random generator do not compile; columns are named, never numbered; types are
//! written as Arrow prints them (`Int64`, `Timestamp(µs, "UTC")`).

mod compile;
mod guard;
mod literal;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use compile::{compile, scalar_function, scalar_functions};
pub(crate) use guard::guarded;
pub use literal::Literal;

/// A deterministic function of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    Column(String),
    Literal(Literal),
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Not(Box<Expr>),
    /// Arithmetic negation; of the smallest integer it is a row error.
    Negate(Box<Expr>),
    IsNull(Box<Expr>),
    /// `IS TRUE`: never NULL.
    IsTrue(Box<Expr>),
    /// `IS FALSE`: never NULL.
    IsFalse(Box<Expr>),
    /// `CAST` (a value that does not fit is a row error) or `TRY_CAST` (it becomes NULL).
    Cast {
        expr: Box<Expr>,
        data_type: String,
        try_: bool,
    },
    Case {
        operand: Option<Box<Expr>>,
        branches: Vec<Branch>,
        otherwise: Option<Box<Expr>>,
    },
    InList {
        expr: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    Like {
        expr: Box<Expr>,
        pattern: Box<Expr>,
        negated: bool,
        case_insensitive: bool,
    },
    /// A registered scalar function, by its canonical name; `attributes['key']` is `get_field(attributes, 'key')`.
    Call {
        name: String,
        arguments: Vec<Expr>,
    },
}

/// One `WHEN … THEN …` of a `CASE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    pub when: Expr,
    pub then: Expr,
}

/// Operators with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    Plus,
    Minus,
    Multiply,
    Divide,
    Modulo,
    And,
    Or,
    IsDistinctFrom,
    IsNotDistinctFrom,
    RegexMatch,
    RegexIMatch,
    RegexNotMatch,
    RegexNotIMatch,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    BitwiseShiftRight,
    BitwiseShiftLeft,
    StringConcat,
    /// `list @> list`: contains.
    Contains,
    /// `list <@ list`: is contained in.
    ContainedBy,
}

impl BinaryOp {
    /// The operator as SQL writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Eq => "=",
            BinaryOp::NotEq => "<>",
            BinaryOp::Lt => "<",
            BinaryOp::LtEq => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::GtEq => ">=",
            BinaryOp::Plus => "+",
            BinaryOp::Minus => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Modulo => "%",
            BinaryOp::And => "AND",
            BinaryOp::Or => "OR",
            BinaryOp::IsDistinctFrom => "IS DISTINCT FROM",
            BinaryOp::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
            BinaryOp::RegexMatch => "~",
            BinaryOp::RegexIMatch => "~*",
            BinaryOp::RegexNotMatch => "!~",
            BinaryOp::RegexNotIMatch => "!~*",
            BinaryOp::BitwiseAnd => "&",
            BinaryOp::BitwiseOr => "|",
            BinaryOp::BitwiseXor => "#",
            BinaryOp::BitwiseShiftRight => ">>",
            BinaryOp::BitwiseShiftLeft => "<<",
            BinaryOp::StringConcat => "||",
            BinaryOp::Contains => "@>",
            BinaryOp::ContainedBy => "<@",
        }
    }
}

impl Expr {
    pub fn column(name: impl Into<String>) -> Self {
        Expr::Column(name.into())
    }

    pub fn int64(value: i64) -> Self {
        Expr::Literal(Literal::Int64(value))
    }

    pub fn float64(value: f64) -> Self {
        Expr::Literal(Literal::float64(value))
    }

    pub fn text(value: impl Into<String>) -> Self {
        Expr::Literal(Literal::Text(value.into()))
    }

    pub fn boolean(value: bool) -> Self {
        Expr::Literal(Literal::Boolean(value))
    }

    pub fn binary(self, op: BinaryOp, right: Expr) -> Self {
        Expr::Binary {
            op,
            left: Box::new(self),
            right: Box::new(right),
        }
    }

    /// `self = right`
    pub fn equals(self, right: Expr) -> Self {
        self.binary(BinaryOp::Eq, right)
    }

    /// `self AND right`
    pub fn and(self, right: Expr) -> Self {
        self.binary(BinaryOp::And, right)
    }

    pub fn call(name: impl Into<String>, arguments: Vec<Expr>) -> Self {
        Expr::Call {
            name: name.into(),
            arguments,
        }
    }

    /// The names of the columns it reads.
    pub fn columns(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.visit(&mut |expr| {
            if let Expr::Column(name) = expr {
                names.insert(name.clone());
            }
        });
        names
    }

    /// Calls `see` for this expression and all below it, parents first.
    pub fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Expr)) {
        see(self);
        for child in self.children() {
            child.visit(see);
        }
    }

    /// Rebuilds the expression with every column replaced by what `replacement` gives for its name; names for
    /// which it gives `None` stay.
    pub fn substitute(&self, replacement: &impl Fn(&str) -> Option<Expr>) -> Expr {
        let boxed = |expr: &Expr| Box::new(expr.substitute(replacement));
        let all = |list: &[Expr]| list.iter().map(|expr| expr.substitute(replacement)).collect();
        match self {
            Expr::Column(name) => replacement(name).unwrap_or_else(|| self.clone()),
            Expr::Literal(_) => self.clone(),
            Expr::Binary { op, left, right } => Expr::Binary {
                op: *op,
                left: boxed(left),
                right: boxed(right),
            },
            Expr::Not(expr) => Expr::Not(boxed(expr)),
            Expr::Negate(expr) => Expr::Negate(boxed(expr)),
            Expr::IsNull(expr) => Expr::IsNull(boxed(expr)),
            Expr::IsTrue(expr) => Expr::IsTrue(boxed(expr)),
            Expr::IsFalse(expr) => Expr::IsFalse(boxed(expr)),
            Expr::Cast {
                expr,
                data_type,
                try_,
            } => Expr::Cast {
                expr: boxed(expr),
                data_type: data_type.clone(),
                try_: *try_,
            },
            Expr::Case {
                operand,
                branches,
                otherwise,
            } => Expr::Case {
                operand: operand.as_deref().map(boxed),
                branches: branches
                    .iter()
                    .map(|branch| Branch {
                        when: branch.when.substitute(replacement),
                        then: branch.then.substitute(replacement),
                    })
                    .collect(),
                otherwise: otherwise.as_deref().map(boxed),
            },
            Expr::InList { expr, list, negated } => Expr::InList {
                expr: boxed(expr),
                list: all(list),
                negated: *negated,
            },
            Expr::Like {
                expr,
                pattern,
                negated,
                case_insensitive,
            } => Expr::Like {
                expr: boxed(expr),
                pattern: boxed(pattern),
                negated: *negated,
                case_insensitive: *case_insensitive,
            },
            Expr::Call { name, arguments } => Expr::Call {
                name: name.clone(),
                arguments: all(arguments),
            },
        }
    }

    /// Whether it has a value for every row: columns, constants, comparisons and logic, but no arithmetic, no cast and
    /// no function.
    pub fn never_fails(&self) -> bool {
        let itself = match self {
            Expr::Column(_)
            | Expr::Literal(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::Case { .. }
            | Expr::InList { .. } => true,
            Expr::Binary { op, .. } => matches!(
                op,
                BinaryOp::Eq
                    | BinaryOp::NotEq
                    | BinaryOp::Lt
                    | BinaryOp::LtEq
                    | BinaryOp::Gt
                    | BinaryOp::GtEq
                    | BinaryOp::And
                    | BinaryOp::Or
                    | BinaryOp::IsDistinctFrom
                    | BinaryOp::IsNotDistinctFrom
            ),
            Expr::Negate(_) | Expr::Cast { .. } | Expr::Like { .. } | Expr::Call { .. } => false,
        };
        itself && self.children().into_iter().all(Expr::never_fails)
    }

    fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => Vec::new(),
            Expr::Binary { left, right, .. } => vec![left, right],
            Expr::Not(expr)
            | Expr::Negate(expr)
            | Expr::IsNull(expr)
            | Expr::IsTrue(expr)
            | Expr::IsFalse(expr)
            | Expr::Cast { expr, .. } => vec![expr],
            Expr::Case {
                operand,
                branches,
                otherwise,
            } => operand
                .as_deref()
                .into_iter()
                .chain(branches.iter().flat_map(|branch| [&branch.when, &branch.then]))
                .chain(otherwise.as_deref())
                .collect(),
            Expr::InList { expr, list, .. } => std::iter::once(expr.as_ref()).chain(list).collect(),
            Expr::Like { expr, pattern, .. } => vec![expr, pattern],
            Expr::Call { arguments, .. } => arguments.iter().collect(),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Column(name) => write_name(out, name),
            Expr::Literal(literal) => write!(out, "{literal}"),
            Expr::Binary { op, left, right } => write!(out, "({left} {} {right})", op.symbol()),
            Expr::Not(expr) => write!(out, "(NOT {expr})"),
            Expr::Negate(expr) => write!(out, "(- {expr})"),
            Expr::IsNull(expr) => write!(out, "({expr} IS NULL)"),
            Expr::IsTrue(expr) => write!(out, "({expr} IS TRUE)"),
            Expr::IsFalse(expr) => write!(out, "({expr} IS FALSE)"),
            Expr::Cast {
                expr,
                data_type,
                try_,
            } => {
                write!(
                    out,
                    "{}({expr} AS {data_type})",
                    if *try_ { "TRY_CAST" } else { "CAST" }
                )
            }
            Expr::Case {
                operand,
                branches,
                otherwise,
            } => {
                out.write_str("CASE")?;
                if let Some(operand) = operand {
                    write!(out, " {operand}")?;
                }
                for Branch { when, then } in branches {
                    write!(out, " WHEN {when} THEN {then}")?;
                }
                if let Some(otherwise) = otherwise {
                    write!(out, " ELSE {otherwise}")?;
                }
                out.write_str(" END")
            }
            Expr::InList { expr, list, negated } => {
                write!(out, "({expr} {}IN (", if *negated { "NOT " } else { "" })?;
                write_list(out, list)?;
                out.write_str("))")
            }
            Expr::Like {
                expr,
                pattern,
                negated,
                case_insensitive,
            } => {
                let not = if *negated { "NOT " } else { "" };
                let like = if *case_insensitive { "ILIKE" } else { "LIKE" };
                write!(out, "({expr} {not}{like} {pattern})")
            }
            Expr::Call { name, arguments } => match (name.as_str(), arguments.as_slice()) {
                ("get_field", [map, key]) => write!(out, "{map}[{key}]"),
                _ => {
                    write!(out, "{name}(")?;
                    write_list(out, arguments)?;
                    out.write_str(")")
                }
            },
        }
    }
}

fn write_list(out: &mut fmt::Formatter<'_>, list: &[Expr]) -> fmt::Result {
    for (index, expr) in list.iter().enumerate() {
        if index > 0 {
            out.write_str(", ")?;
        }
        write!(out, "{expr}")?;
    }
    Ok(())
}

fn write_name(out: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if plain && name.bytes().next().is_some_and(|first| !first.is_ascii_digit()) {
        out.write_str(name)
    } else {
        write!(out, "\"{}\"", name.replace('"', "\"\""))
    }
}
