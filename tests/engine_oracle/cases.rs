//! The monitors under test, and what the oracle must know of each beyond its SQL.

use pyflare_dataflows::MonitorDefinition;
use pyflare_dataflows::plan::builtin;
use pyflare_sql::{PlanScope, Statement};

/// Which rows, or groups, are in error.
pub enum Errors {
    None,
    /// Rows for which this condition holds.
    Rows(&'static str),
    /// The rows of this query, each a group.
    Groups(Box<MonitorDefinition>),
}

pub struct Case {
    pub definition: MonitorDefinition,
    /// What is equal to the monitor's statement once nothing is in error; run as a batch.
    pub equal: MonitorDefinition,
    pub window_us: Option<i64>,
    /// The rows that reach the aggregate: the statement's WHERE.
    pub rows: &'static str,
    pub errors: Errors,
    /// How many bases it reads: each leaves out late rows by itself.
    pub bases: i64,
    /// Every row of the result comes from one pane: what is stored of it is the batch over all rows that were in time.
    pub one_pane: bool,
}

pub fn planned(sql: &str) -> MonitorDefinition {
    let scope = PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    };
    match pyflare_sql::parse(sql, &scope).unwrap() {
        Statement::CreateMonitor(create) => create.definition,
        other => panic!("{other:?}"),
    }
}

struct Text {
    name: &'static str,
    options: &'static str,
    select: &'static str,
    window_s: Option<i64>,
    rows: &'static str,
}

const PLAIN: &[Text] = &[
    Text {
        name: "extremes",
        options: "",
        select: "SELECT model, window_start, min(duration_ns) AS least, max(duration_ns) AS most,
           max(name) AS last_name, avg(temperature) AS warmth
         FROM TUMBLE(spans, event_time, INTERVAL '10 seconds') GROUP BY model, window_start",
        window_s: Some(10),
        rows: "true",
    },
    Text {
        name: "filtered",
        options: "",
        select: "SELECT service_name, window_end, count(*) AS calls, sum(input_tokens) AS tokens
         FROM TUMBLE(spans, event_time, INTERVAL '1 minute') WHERE output_tokens > 20
         GROUP BY service_name, window_end HAVING count(*) > 3",
        window_s: Some(60),
        rows: "output_tokens > 20",
    },
    Text {
        name: "by_user",
        options: "",
        select: "SELECT user_id, count(*) AS calls, sum(output_tokens) AS tokens FROM spans GROUP BY user_id",
        window_s: None,
        rows: "true",
    },
    Text {
        name: "slowest",
        options: "",
        select: "SELECT trace_id, span_id, duration_ns FROM spans WHERE duration_ns > 900000000",
        window_s: None,
        rows: "duration_ns > 900000000",
    },
    Text {
        name: "models",
        options: "",
        select: "SELECT DISTINCT model, provider FROM spans",
        window_s: None,
        rows: "true",
    },
    Text {
        name: "brief",
        options: "retention = '2 minutes', lateness = '5 seconds'",
        select: "SELECT service_name, window_start, count(*) AS calls, sum(temperature) AS warmth,
           quantile(duration_ns, 0.9) AS p90, min(duration_ns) AS least
         FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') WHERE output_tokens > 20
         GROUP BY service_name, window_start",
        window_s: Some(30),
        rows: "output_tokens > 20",
    },
    Text {
        name: "final_minutes",
        options: "lateness = '20 seconds'",
        select: "SELECT service_name, window_start, window_end, count(*) AS calls, sum(temperature) AS warmth
         FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY service_name, window_start, window_end
         EMIT FINAL",
        window_s: Some(60),
        rows: "true",
    },
    Text {
        name: "brief_final",
        options: "retention = '2 minutes', lateness = '50 seconds'",
        select: "SELECT model, window_end, max(duration_ns) AS most FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
         WHERE output_tokens > 20 GROUP BY model, window_end HAVING count(*) > 1 EMIT FINAL",
        window_s: Some(30),
        rows: "output_tokens > 20",
    },
    Text {
        name: "brief_users",
        options: "retention = '100 seconds', lateness = '0 seconds'",
        select: "SELECT user_id, count(*) AS calls, max(duration_ns) AS most FROM spans GROUP BY user_id",
        window_s: None,
        rows: "true",
    },
    Text {
        name: "brief_rows",
        options: "retention = '100 seconds', lateness = '5 seconds'",
        select: "SELECT span_id, duration_ns FROM spans WHERE duration_ns > 900000000",
        window_s: None,
        rows: "duration_ns > 900000000",
    },
];

pub fn text(name: &str, options: &str, select: &str) -> MonitorDefinition {
    let options = match options {
        "" => String::new(),
        given => format!(" WITH ({given})"),
    };
    planned(&format!("CREATE MONITOR {name}{options} AS {select}"))
}

/// Division by zero in a row: left out of its group, whatever the other columns are.
fn ratios() -> Case {
    const OPTIONS: &str = "retention = '3 minutes', lateness = '5 seconds'";
    let select = |condition: &str| {
        format!(
            "SELECT service_name, window_start, sum(1000 / (output_tokens % 4)) AS ratios, count(*) AS calls
             FROM TUMBLE(spans, event_time, INTERVAL '1 minute') {condition} GROUP BY service_name, window_start"
        )
    };
    Case {
        definition: text("ratios", OPTIONS, &select("")),
        equal: text(
            "ratios",
            OPTIONS,
            &select("WHERE output_tokens % 4 <> 0 OR output_tokens IS NULL"),
        ),
        window_us: Some(60_000_000),
        rows: "true",
        errors: Errors::Rows("output_tokens % 4 = 0"),
        bases: 1,
        one_pane: true,
    }
}

/// Division by zero in a group's result: the group is not shown, until another row changes it.
fn thirds() -> Case {
    const OPTIONS: &str = "retention = '2 minutes', lateness = '5 seconds'";
    let select = |columns: &str, having: &str| {
        format!(
            "SELECT model, window_start{columns}
             FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY model, window_start {having}"
        )
    };
    let columns = ", 100 / (count(*) % 3) AS thirds, count(*) AS calls";
    Case {
        definition: text("thirds", OPTIONS, &select(columns, "")),
        equal: text("thirds", OPTIONS, &select(columns, "HAVING count(*) % 3 <> 0")),
        window_us: Some(30_000_000),
        rows: "true",
        errors: Errors::Groups(Box::new(text(
            "bad",
            OPTIONS,
            &select("", "HAVING count(*) % 3 = 0"),
        ))),
        bases: 1,
        one_pane: true,
    }
}

pub fn all() -> Vec<Case> {
    let builtin = builtin::FILES.iter().map(|(name, sql)| {
        let definition = pyflare_sql::builtin_view(name, sql).unwrap();
        Case {
            equal: definition.clone(),
            definition,
            window_us: Some(60_000_000),
            rows: "true",
            errors: Errors::None,
            bases: 1,
            one_pane: true,
        }
    });
    let plain = PLAIN.iter().map(|case| {
        let definition = text(case.name, case.options, case.select);
        Case {
            equal: definition.clone(),
            definition,
            window_us: case.window_s.map(|seconds| seconds * 1_000_000),
            rows: case.rows,
            errors: Errors::None,
            bases: 1,
            // Without a window the panes of a group are summed.
            one_pane: case.window_s.is_some(),
        }
    });
    let single = builtin.chain(plain).chain([ratios(), thirds()]);
    single.chain(crate::graph_cases::all()).collect()
}
