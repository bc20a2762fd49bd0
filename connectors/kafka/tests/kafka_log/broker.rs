//! A real broker for these tests (`tests/support/kafka/kafka.py`), one for all of them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

pub struct Broker {
    process: Child,
    /// What it is told and what it answers.
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    pub directory: tempfile::TempDir,
    pub port: u16,
    pub sasl_port: u16,
    pub tls_port: u16,
}

impl Broker {
    /// `None`, said aloud, where the broker cannot be had and need not.
    pub fn start() -> Option<Broker> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/kafka/kafka.py");
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new("python3")
            .arg("-B")
            .arg(script)
            .arg("run")
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let ports: Vec<u16> = line
            .split_whitespace()
            .skip(1)
            .map(|port| port.parse().unwrap())
            .collect();
        let [port, sasl_port, tls_port] = ports[..] else {
            let required = ["CI", "PYFLARE_REQUIRE_SERVICES"];
            let is_required = required.iter().any(|name| std::env::var_os(name).is_some());
            assert!(!is_required, "the Kafka broker is required here");
            let _ = process.wait();
            println!("skipped: the Kafka broker cannot be had on this machine");
            return None;
        };
        Some(Broker {
            talk: Mutex::new((process.stdin.take().unwrap(), answers)),
            process,
            directory,
            port,
            sasl_port,
            tls_port,
        })
    }

    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.tell("kill");
    }

    pub fn restart(&mut self) {
        self.tell("start");
    }

    /// A command of `kafka.py run`.
    pub fn tell(&self, command: &str) {
        let mut talk = self.talk.lock().unwrap();
        let (input, answers) = &mut *talk;
        writeln!(input, "{command}").unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert!(line.starts_with(command), "{command}: {line}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It kills the broker and ends.
        let talk = self
            .talk
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = writeln!(talk.0, "end");
        let _ = self.process.wait();
    }
}
