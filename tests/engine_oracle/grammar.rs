//! Random SELECTs of every form that a monitor takes; expressions in them never fail.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Int,
    Text,
    Float,
    Time,
    Bool,
}

pub type Columns = Vec<(String, Type)>;

/// A relation as SQL, with its columns.
pub struct Relation {
    pub sql: String,
    columns: Columns,
}

pub struct Generator {
    pub random: StdRng,
    names: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            random: StdRng::seed_from_u64(seed),
            names: 0,
        }
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.random.random_range(0..of.len())]
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("c{}", self.names)
    }

    fn of_type(&mut self, columns: &Columns, wanted: Type) -> Option<String> {
        let fitting: Vec<&String> = columns
            .iter()
            .filter(|(_, found)| *found == wanted)
            .map(|(name, _)| name)
            .collect();
        (!fitting.is_empty()).then(|| (*self.one(&fitting)).clone())
    }

    /// An expression of a type over columns; it never fails.
    fn expression(&mut self, columns: &Columns, wanted: Type, depth: u32) -> String {
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

    fn condition(&mut self, columns: &Columns, depth: u32) -> String {
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

    fn aggregate(&mut self, columns: &Columns) -> (String, Type) {
        let filter = match self.chance(25) {
            true => format!(" FILTER (WHERE {})", self.condition(columns, 1)),
            false => String::new(),
        };
        let (call, data_type) = match self.random.random_range(0..11) {
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

    /// A relation of random form.
    pub fn relation(&mut self, depth: u32) -> Relation {
        if depth == 0 {
            return self.rows();
        }
        match self.random.random_range(0..15) {
            14 => self.first_of_each(depth - 1),
            0 => self.rows(),
            1..=3 => self.aggregated(depth - 1),
            4 => self.windowed(),
            5..=7 => self.joined(depth - 1),
            8 => self.members(depth - 1),
            9 | 10 => self.united(depth - 1),
            11 => self.first(depth - 1),
            12 => self.numbered(depth - 1),
            _ => self.compared(depth - 1),
        }
    }

    fn stream() -> Columns {
        [
            ("model", Type::Text),
            ("user_id", Type::Text),
            ("name", Type::Text),
            ("status", Type::Text),
            ("output_tokens", Type::Int),
            ("input_tokens", Type::Int),
            ("duration_ns", Type::Int),
            ("temperature", Type::Float),
            ("event_time", Type::Time),
        ]
        .map(|(name, data_type)| (name.to_string(), data_type))
        .to_vec()
    }

    fn select(&mut self, columns: &Columns, types: &[Type]) -> (String, Columns) {
        let mut shown = Vec::new();
        let mut given = Columns::new();
        for data_type in types {
            let name = self.name();
            shown.push(format!("{} AS {name}", self.expression(columns, *data_type, 2)));
            given.push((name, *data_type));
        }
        (shown.join(", "), given)
    }

    fn types(&mut self) -> Vec<Type> {
        let count = self.random.random_range(2..4);
        let mut types: Vec<Type> = (0..count)
            .map(|_| *self.one(&[Type::Int, Type::Text, Type::Int, Type::Text, Type::Bool]))
            .collect();
        types.push(Type::Int);
        types
    }

    fn rows(&mut self) -> Relation {
        let stream = Generator::stream();
        let types = self.types();
        let (shown, columns) = self.select(&stream, &types);
        let condition = self.condition(&stream, 2);
        Relation {
            sql: format!(
                "SELECT {shown} FROM spans WHERE {condition} AND (output_tokens % 3) = {}",
                self.random.random_range(0..3)
            ),
            columns,
        }
    }

    fn grouped(&mut self, from: &str, below: &Columns, keys: Vec<(String, Type)>) -> Relation {
        let mut columns = Columns::new();
        let mut shown = Vec::new();
        let mut written = Vec::new();
        for (key, data_type) in keys {
            let name = self.name();
            shown.push(format!("{key} AS {name}"));
            written.push(key);
            columns.push((name, data_type));
        }
        for _ in 0..self.random.random_range(1..4) {
            let (aggregate, data_type) = self.aggregate(below);
            let name = self.name();
            shown.push(format!("{aggregate} AS {name}"));
            columns.push((name, data_type));
        }
        let group_by = match written.is_empty() {
            true if self.chance(30) => " GROUP BY 'all'".to_string(),
            true => String::new(),
            false if self.chance(20) => {
                let name = self.name();
                shown.push(format!("grouping({}) AS {name}", self.one(&written)));
                columns.push((name, Type::Int));
                let all = written.join(", ");
                match self.random.random_range(0..3) {
                    0 => format!(" GROUP BY ROLLUP ({all})"),
                    1 => format!(" GROUP BY CUBE ({all})"),
                    _ => format!(" GROUP BY GROUPING SETS (({all}), ({}), ())", written[0]),
                }
            }
            false => format!(" GROUP BY {}", written.join(", ")),
        };
        let having = match self.chance(25) {
            true => format!(" HAVING count(*) % 3 <> {}", self.random.random_range(0..3)),
            false => String::new(),
        };
        Relation {
            sql: format!("SELECT {} FROM {from}{group_by}{having}", shown.join(", ")),
            columns,
        }
    }

    fn aggregated(&mut self, depth: u32) -> Relation {
        let (from, below) = match self.chance(50) {
            true => ("spans".to_string(), Generator::stream()),
            false => {
                let relation = self.relation(depth);
                (format!("({}) AS r", relation.sql), relation.columns)
            }
        };
        let mut keys = Vec::new();
        if !self.chance(12) {
            for _ in 0..self.random.random_range(1..3) {
                let data_type = *self.one(&[Type::Text, Type::Int, Type::Text]);
                let key = self.expression(&below, data_type, 1);
                // A constant in GROUP BY is a position.
                if key.contains(|c: char| c.is_ascii_alphabetic())
                    && !key.starts_with('\'')
                    && !keys.iter().any(|(other, _)| *other == key)
                {
                    keys.push((key, data_type));
                }
            }
        }
        self.grouped(&from, &below, keys)
    }

    fn windowed(&mut self) -> Relation {
        let from = match self.chance(50) {
            true => format!(
                "TUMBLE(spans, event_time, INTERVAL '{} seconds')",
                self.random.random_range(20..200)
            ),
            false => {
                let slide = self.random.random_range(20..60);
                let size = slide * self.random.random_range(1..4) + self.random.random_range(0..10);
                format!("HOP(spans, event_time, INTERVAL '{slide} seconds', INTERVAL '{size} seconds')")
            }
        };
        let below = Generator::stream();
        let mut keys = vec![("window_start".to_string(), Type::Time)];
        if self.chance(60) {
            keys.push(("model".to_string(), Type::Text));
        }
        self.grouped(&from, &below, keys)
    }

    fn prefixed(columns: &Columns, prefix: &str) -> Columns {
        columns
            .iter()
            .map(|(name, data_type)| (format!("{prefix}.{name}"), *data_type))
            .collect()
    }

    /// Columns of equal type on both sides, for keys.
    fn common(&mut self, left: &Columns, right: &Columns) -> Option<(String, String)> {
        for wanted in [Type::Text, Type::Int] {
            if let (Some(one), Some(other)) = (self.of_type(left, wanted), self.of_type(right, wanted)) {
                return Some((one, other));
            }
        }
        None
    }

    fn joined(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth));
        let (a, b) = (
            Generator::prefixed(&left.columns, "a"),
            Generator::prefixed(&right.columns, "b"),
        );
        let Some((one, other)) = self.common(&a, &b) else {
            return left;
        };
        let mut on = format!("{one} = {other}");
        let both: Columns = a.iter().chain(&b).cloned().collect();
        if self.chance(35) {
            let condition = self.condition(&both, 1);
            on = format!("{on} AND {condition}");
        }
        let kind = *self.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "JOIN"]);
        let types = self.types();
        let (shown, columns) = self.select(&both, &types);
        Relation {
            sql: format!(
                "SELECT {shown} FROM ({}) AS a {kind} ({}) AS b ON {on}",
                left.sql, right.sql
            ),
            columns,
        }
    }

    fn members(&mut self, depth: u32) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth));
        let (a, b) = (
            Generator::prefixed(&left.columns, "a"),
            Generator::prefixed(&right.columns, "b"),
        );
        let Some((one, other)) = self.common(&a, &b) else {
            return left;
        };
        let types = self.types();
        let (shown, columns) = self.select(&a, &types);
        let member = match self.random.random_range(0..4) {
            0 => format!("{one} IN (SELECT {other} FROM ({}) AS b)", right.sql),
            1 => format!("{one} NOT IN (SELECT {other} FROM ({}) AS b)", right.sql),
            2 => format!(
                "EXISTS (SELECT 1 FROM ({}) AS b WHERE {other} = {one})",
                right.sql
            ),
            _ => format!(
                "NOT EXISTS (SELECT 1 FROM ({}) AS b WHERE {other} = {one})",
                right.sql
            ),
        };
        Relation {
            sql: format!("SELECT {shown} FROM ({}) AS a WHERE {member}", left.sql),
            columns,
        }
    }

    fn united(&mut self, depth: u32) -> Relation {
        let types = self.types();
        let names: Vec<String> = types.iter().map(|_| self.name()).collect();
        let part = |generator: &mut Generator| {
            let relation = generator.relation(depth);
            let shown: Vec<String> = types
                .iter()
                .zip(&names)
                .map(|(data_type, name)| {
                    format!(
                        "{} AS {name}",
                        generator.expression(&relation.columns, *data_type, 1)
                    )
                })
                .collect();
            format!("SELECT {} FROM ({}) AS u", shown.join(", "), relation.sql)
        };
        let (one, other) = (part(self), part(self));
        let operator = *self.one(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "UNION ALL"]);
        Relation {
            sql: format!("{one} {operator} {other}"),
            columns: names.into_iter().zip(types).collect(),
        }
    }

    /// ORDER BY all columns, so that the choice is decided.
    fn order(&mut self, columns: &Columns) -> String {
        let keys: Vec<String> = columns
            .iter()
            .map(|(name, _)| {
                let direction = *self.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
                format!("{name}{direction}")
            })
            .collect();
        keys.join(", ")
    }

    fn first(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        let order = self.order(&relation.columns);
        let offset = match self.chance(30) {
            true => format!(" OFFSET {}", self.random.random_range(1..4)),
            false => String::new(),
        };
        Relation {
            sql: format!(
                "SELECT * FROM ({}) AS o ORDER BY {order} LIMIT {}{offset}",
                relation.sql,
                self.random.random_range(1..12)
            ),
            columns: relation.columns,
        }
    }

    fn first_of_each(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        let of_each = self.one(&relation.columns).0.clone();
        // DataFusion gives up on a column that is in ORDER BY twice.
        let mut others = relation.columns.clone();
        others.retain(|(name, _)| *name != of_each);
        let order = self.order(&others);
        Relation {
            sql: format!(
                "SELECT DISTINCT ON ({of_each}) * FROM ({}) AS d ORDER BY {of_each}, {order}",
                relation.sql
            ),
            columns: relation.columns,
        }
    }

    fn numbered(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        let order = self.order(&relation.columns);
        let partition = self.one(&relation.columns).0.clone();
        let name = self.name();
        let function = match self.random.random_range(0..4) {
            0 => format!("row_number() OVER (PARTITION BY {partition} ORDER BY {order})"),
            1 => format!("dense_rank() OVER (PARTITION BY {partition} ORDER BY {order})"),
            2 => "count(*) OVER ()".to_string(),
            _ => format!("count(*) OVER (PARTITION BY {partition})"),
        };
        let mut columns = relation.columns;
        columns.push((name.clone(), Type::Int));
        Relation {
            sql: format!("SELECT *, {function} AS {name} FROM ({}) AS w", relation.sql),
            columns,
        }
    }

    fn compared(&mut self, depth: u32) -> Relation {
        let (relation, other) = (self.relation(depth), self.relation(depth));
        let (Some(column), Some(inner)) = (
            self.of_type(&relation.columns, Type::Int),
            self.of_type(&other.columns, Type::Int),
        ) else {
            return relation;
        };
        let function = *self.one(&["max", "min", "avg", "count"]);
        Relation {
            sql: format!(
                "SELECT * FROM ({}) AS s WHERE {column} >= (SELECT {function}({inner}) FROM ({}) AS t)",
                relation.sql, other.sql
            ),
            columns: relation.columns,
        }
    }
}
