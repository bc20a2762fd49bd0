//! Random expressions and aggregates; none of them fails on a row.

use rand::Rng;

use super::{Columns, Generator, Type};

impl Generator {
    /// An expression of a type over columns; it never fails.
    pub(super) fn expression(&mut self, columns: &Columns, wanted: Type, depth: u32) -> String {
        if depth == 0 || self.chance(40) {
            if let Some(column) = self.of_type(columns, wanted) {
                return column;
            }
            return match wanted {
                Type::Int => self.random.random_range(-3..20).to_string(),
                Type::Text => (*self.one(&["'a'", "'ä'", "''", "'日本'", "'x'"])).to_string(),
                Type::Float => (*self.one(&["0.5", "-2.25", "1e3"])).to_string(),
                Type::Time => "TIMESTAMP '2026-01-01T00:00:00Z'".to_string(),
                Type::Bool => (*self.one(&["true", "false"])).to_string(),
            };
        }
        let below = depth - 1;
        match (wanted, self.random.random_range(0..6)) {
            (Type::Int, 0) => format!("({} % 7)", self.expression(columns, Type::Int, below)),
            (Type::Int, 1) => format!("nullif({}, 3)", self.expression(columns, Type::Int, below)),
            (Type::Int, 2) => format!(
                "(({} % 100) + ({} % 50))",
                self.expression(columns, Type::Int, below),
                self.expression(columns, Type::Int, below)
            ),
            (Type::Int, 3) => format!(
                "character_length({})",
                self.expression(columns, Type::Text, below)
            ),
            (Type::Text, 0) => format!("upper({})", self.expression(columns, Type::Text, below)),
            (Type::Text, 1) => format!(
                "({} || '-' || {})",
                self.expression(columns, Type::Text, below),
                self.expression(columns, Type::Text, below)
            ),
            (Type::Text, 2) => format!("substr({}, 1, 2)", self.expression(columns, Type::Text, below)),
            (Type::Float, 0) => format!("({} * 0.5)", self.expression(columns, Type::Float, below)),
            (Type::Float, 1) => format!(
                "CAST(({} % 100) AS DOUBLE)",
                self.expression(columns, Type::Int, below)
            ),
            (Type::Bool, 0..=4) => self.condition(columns, below),
            (_, 4) => {
                let condition = self.condition(columns, below);
                let (one, other) = (
                    self.expression(columns, wanted, below),
                    self.expression(columns, wanted, below),
                );
                format!("CASE WHEN {condition} THEN {one} ELSE {other} END")
            }
            (_, 5) => format!(
                "coalesce({}, {})",
                self.expression(columns, wanted, below),
                self.expression(columns, wanted, below)
            ),
            _ => self.expression(columns, wanted, below),
        }
    }

    pub(super) fn condition(&mut self, columns: &Columns, depth: u32) -> String {
        let below = depth.saturating_sub(1);
        match self.random.random_range(0..8) {
            0 => format!("{} IS NULL", self.expression(columns, Type::Text, below)),
            1 => format!("{} IS NOT NULL", self.expression(columns, Type::Int, below)),
            2 => format!("{} LIKE '%a%'", self.expression(columns, Type::Text, below)),
            3 => format!(
                "{} IN (1, 2, 5, 8, NULL)",
                self.expression(columns, Type::Int, below)
            ),
            4 if depth > 0 => format!(
                "({} AND {})",
                self.condition(columns, below),
                self.condition(columns, below)
            ),
            5 if depth > 0 => format!(
                "({} OR NOT {})",
                self.condition(columns, below),
                self.condition(columns, below)
            ),
            6 => format!(
                "{} >= {}",
                self.expression(columns, Type::Text, below),
                self.expression(columns, Type::Text, below)
            ),
            _ => {
                let operator = *self.one(&["<", ">", "=", "<>", ">="]);
                format!(
                    "({} % 10) {operator} {}",
                    self.expression(columns, Type::Int, below),
                    self.random.random_range(0..8)
                )
            }
        }
    }

    pub(super) fn aggregate(&mut self, columns: &Columns) -> (String, Type) {
        let filter = match self.chance(25) {
            true => format!(" FILTER (WHERE {})", self.condition(columns, 1)),
            false => String::new(),
        };
        let (call, data_type) = match self.random.random_range(0..16) {
            11 => {
                let function = *self.one(&["var_samp", "var_pop", "stddev", "stddev_pop"]);
                let wanted = *self.one(&[Type::Float, Type::Int]);
                (
                    format!("{function}({})", self.expression(columns, wanted, 1)),
                    Type::Float,
                )
            }
            12 => {
                let function =
                    *self.one(&["covar_samp", "covar_pop", "corr", "regr_slope", "regr_intercept"]);
                let one = self.expression(columns, Type::Int, 1);
                (
                    format!("{function}({one}, {})", self.expression(columns, Type::Float, 1)),
                    Type::Float,
                )
            }
            13 => {
                let text = self.expression(columns, Type::Text, 1);
                let distinct = *self.one(&["", "DISTINCT "]);
                (
                    format!("string_agg({distinct}{text}, '-' ORDER BY {text})"),
                    Type::Text,
                )
            }
            14 => {
                let function = *self.one(&["first_value", "last_value"]);
                let (text, by) = (
                    self.expression(columns, Type::Text, 1),
                    self.expression(columns, Type::Int, 1),
                );
                (format!("{function}({text} ORDER BY {by}, {text})"), Type::Text)
            }
            15 => {
                let text = self.expression(columns, Type::Text, 1);
                let listed = format!("array_agg({text} ORDER BY {text}){filter}");
                return (format!("CAST(array_length({listed}) AS BIGINT)"), Type::Int);
            }
            0 | 1 => ("count(*)".to_string(), Type::Int),
            2 => (
                format!("count({})", self.expression(columns, Type::Text, 1)),
                Type::Int,
            ),
            3 => (
                format!("sum({})", self.expression(columns, Type::Int, 1)),
                Type::Int,
            ),
            4 => (
                format!("avg({})", self.expression(columns, Type::Int, 1)),
                Type::Float,
            ),
            5 => (
                format!("min({})", self.expression(columns, Type::Text, 1)),
                Type::Text,
            ),
            6 => (
                format!("max({})", self.expression(columns, Type::Int, 1)),
                Type::Int,
            ),
            7 => (
                format!("count(DISTINCT {})", self.expression(columns, Type::Text, 1)),
                Type::Int,
            ),
            8 => (
                format!("sum({})", self.expression(columns, Type::Float, 1)),
                Type::Float,
            ),
            9 => (
                format!("bool_or({})", self.expression(columns, Type::Bool, 1)),
                Type::Bool,
            ),
            _ => (
                format!("bool_and({})", self.expression(columns, Type::Bool, 1)),
                Type::Bool,
            ),
        };
        (format!("{call}{filter}"), data_type)
    }
}
