//! The engine that the tests talk to, run by `tests/support/clickhouse.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use pyflare_clickhouse::{Address, ClickHouseStore};

/// One engine over a directory of its own; it ends with this value.
pub struct Service {
    pub port: u16,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Service {
    /// `None`, and a line that says why, where the engine cannot be had; a failure where it must be.
    pub fn start() -> Option<Service> {
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/clickhouse.py");
        let mut process = Command::new("python3")
            .arg(script)
            .arg("run")
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs the engine");
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let Some(port) = ready(&mut output) else {
            let status = process.wait().unwrap();
            let required = ["CI", "PYFLARE_REQUIRE_SERVICES"]
                .iter()
                .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
            assert!(
                status.code() == Some(77) && !required,
                "ClickHouse's engine must run here: {status}"
            );
            eprintln!("skipped: ClickHouse's engine cannot be had on this machine");
            return None;
        };
        Some(Service {
            port,
            process,
            input,
            output,
            _directory: directory,
        })
    }

    pub fn kill(&mut self) {
        writeln!(self.input, "kill").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "killed");
    }

    pub fn start_again(&mut self) {
        writeln!(self.input, "start").unwrap();
        assert_eq!(ready(&mut self.output), Some(self.port));
    }

    pub fn address(&self, database: &str) -> Address {
        let url = format!("clickhouse://127.0.0.1:{}/{database}", self.port);
        Address::parse(&url, None).unwrap()
    }

    pub async fn store(&self, database: &str) -> Arc<ClickHouseStore> {
        ClickHouseStore::open(self.address(database)).await.unwrap()
    }

    /// What the engine answers to a statement, without the store in between.
    pub fn ask(&self, sql: &str) -> String {
        let answer = Command::new("curl")
            .args(["-sS", "--data-binary", "@-"])
            .arg(format!("http://127.0.0.1:{}/", self.port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().unwrap().write_all(sql.as_bytes())?;
                child.wait_with_output()
            })
            .unwrap();
        String::from_utf8(answer.stdout).unwrap().trim_end().to_owned()
    }
}

fn ready(output: &mut BufReader<ChildStdout>) -> Option<u16> {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().strip_prefix("ready ")?.parse().ok()
}

impl Drop for Service {
    fn drop(&mut self) {
        // The end of its input is the end of the engine; by pid, should it not see it.
        let _ = writeln!(self.input, "kill");
        let mut line = String::new();
        let _ = self.output.read_line(&mut line);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
