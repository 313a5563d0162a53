//! QEMU's machine protocol, as far as the lane speaks it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection that has done its greeting.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Greets the QEMU at the other end.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        qmp.line().context("QEMU's greeting")?;
        qmp.command(&json!({"execute": "qmp_capabilities"}))?;
        Ok(qmp)
    }

    /// Runs a command of the human monitor; what it prints.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let answer = self.command(&json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": command},
        }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// What has happened since this was last asked, as QEMU tells it.
    pub fn events(&mut self) -> Result<Vec<Value>> {
        // An answer comes behind all that happened before it.
        self.command(&json!({"execute": "query-name"}))?;
        Ok(std::mem::take(&mut self.events))
    }

    fn command(&mut self, command: &Value) -> Result<Value> {
        let mut line = command.to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            self.events.push(answer);
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
