//! Random SELECTs of every form that a monitor takes; expressions in them never fail.

mod expressions;

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

    /// A relation of random form.
    pub fn relation(&mut self, depth: u32) -> Relation {
        if depth == 0 {
            return self.rows();
        }
        match self.random.random_range(0..16) {
            14 => self.first_of_each(depth - 1),
            15 => self.taken_apart(depth - 1),
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
                // A constant in GROUP BY is a position; and of constants in CUBE over a UNION the batch gives every
                // group once for each part of the UNION.
                if below.iter().any(|(column, _)| key.contains(column.as_str()))
                    && !keys.iter().any(|(other, _)| *other == key)
                {
                    keys.push((key, data_type));
                }
            }
        }
        self.grouped(&from, &below, keys)
    }

    fn in_sessions(&mut self) -> Relation {
        let below = Generator::stream();
        let condition = match self.chance(50) {
            true => format!(" WHERE {}", self.condition(&below, 1)),
            false => String::new(),
        };
        let gap = self.random.random_range(1..90);
        let from = format!("SESSION(spans, event_time, INTERVAL '{gap} seconds'){condition}");
        let mut columns: Columns = ["window_start", "window_end"]
            .map(|_| (self.name(), Type::Time))
            .to_vec();
        let mut shown = vec![
            format!("window_start AS {}", columns[0].0),
            format!("window_end AS {}", columns[1].0),
        ];
        let mut keys = vec!["window_start".to_string(), "window_end".to_string()];
        for key in ["model", "user_id"] {
            if self.chance(50) {
                let name = self.name();
                shown.push(format!("{key} AS {name}"));
                columns.push((name, Type::Text));
                keys.push(key.to_string());
            }
        }
        for _ in 0..self.random.random_range(1..4) {
            let (aggregate, data_type) = self.aggregate(&below);
            let name = self.name();
            shown.push(format!("{aggregate} AS {name}"));
            columns.push((name, data_type));
        }
        Relation {
            sql: format!(
                "SELECT {} FROM {from} GROUP BY {}",
                shown.join(", "),
                keys.join(", ")
            ),
            columns,
        }
    }

    fn windowed(&mut self) -> Relation {
        if self.chance(34) {
            return self.in_sessions();
        }
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

    fn taken_apart(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        let types = self.types();
        let (shown, mut columns) = self.select(&relation.columns, &types);
        let name = self.name();
        let text = self.expression(&relation.columns, Type::Text, 1);
        columns.push((name.clone(), Type::Text));
        Relation {
            sql: format!(
                "SELECT {shown}, unnest(string_to_array({text}, '-')) AS {name} FROM ({}) AS l",
                relation.sql
            ),
            columns,
        }
    }

    fn constants(&mut self) -> Relation {
        let names = [self.name(), self.name()];
        Relation {
            sql: format!(
                "SELECT * FROM (VALUES ('a', 1), ('ä', 2), ('a', NULL), (NULL, 8), ('u1', 5)) AS v({}, {})",
                names[0], names[1]
            ),
            columns: names.into_iter().zip([Type::Text, Type::Int]).collect(),
        }
    }

    fn joined(&mut self, depth: u32) -> Relation {
        let left = self.relation(depth);
        let right = match self.chance(12) {
            true => self.constants(),
            false => self.relation(depth),
        };
        let (a, b) = (
            Generator::prefixed(&left.columns, "a"),
            Generator::prefixed(&right.columns, "b"),
        );
        let Some((one, other)) = self.common(&a, &b) else {
            return left;
        };
        let mut on = format!("{one} = {other}");
        let mut kind = *self.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "JOIN"]);
        let both: Columns = a.iter().chain(&b).cloned().collect();
        if let (true, Some(one), Some(other)) = (
            self.chance(30),
            self.of_type(&a, Type::Int),
            self.of_type(&b, Type::Int),
        ) {
            let (less, more) = (self.random.random_range(0..5), self.random.random_range(0..5));
            let near = format!("{other} - {one} BETWEEN -{less} AND {more}");
            // Without an equality each side needs a bound by itself, which FULL JOIN does not take.
            on = match self.chance(25) {
                true => near,
                false => format!("{on} AND {near}"),
            };
            if kind == "FULL JOIN" {
                kind = "LEFT JOIN";
            }
        } else if self.chance(35) {
            let condition = self.condition(&both, 1);
            on = format!("{on} AND {condition}");
        }
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
        let other_condition = self.condition(&a, 1);
        let member = match self.random.random_range(0..6) {
            4 => format!(
                "({one} IN (SELECT {other} FROM ({}) AS b) OR {other_condition})",
                right.sql
            ),
            5 => format!(
                "({other_condition} OR EXISTS (SELECT 1 FROM ({}) AS b WHERE {other} = {one}))",
                right.sql
            ),
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
        let mut order = vec![of_each.clone()];
        if !others.is_empty() {
            order.push(self.order(&others));
        }
        Relation {
            sql: format!(
                "SELECT DISTINCT ON ({of_each}) * FROM ({}) AS d ORDER BY {}",
                relation.sql,
                order.join(", ")
            ),
            columns: relation.columns,
        }
    }

    fn numbered(&mut self, depth: u32) -> Relation {
        let relation = self.relation(depth);
        let order = self.order(&relation.columns);
        let partition = self.one(&relation.columns).0.clone();
        let name = self.name();
        let summed = self
            .of_type(&relation.columns, Type::Int)
            .unwrap_or("1".to_string());
        let function = match self.random.random_range(0..7) {
            4 => format!("sum({summed}) OVER (PARTITION BY {partition} ORDER BY {summed} DESC)"),
            5 => format!(
                "count({summed}) OVER (PARTITION BY {partition} ORDER BY {order} ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)"
            ),
            6 => format!(
                "max({summed}) OVER (ORDER BY {order} GROUPS BETWEEN 1 FOLLOWING AND {} FOLLOWING)",
                self.random.random_range(1..4)
            ),
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
