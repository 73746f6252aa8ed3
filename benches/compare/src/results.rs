//! All figures of a run, and the documents that show them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::lines::Regime;
use crate::report::{Other, Row, health};
use crate::targets;

pub(crate) struct Results {
    /// Where and how it was measured.
    pub(crate) machine: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) others: Vec<Other>,
}

impl Results {
    /// Those that were measured.
    pub(crate) fn regimes(&self) -> Vec<Regime> {
        let has_rows = |regime: &Regime| self.rows.iter().any(|row| row.regime == *regime);
        Regime::ALL.into_iter().filter(has_rows).collect()
    }

    pub(crate) fn row(&self, line: &str, regime: Regime) -> Option<&Row> {
        self.rows.iter().find(|row| row.line == line && row.regime == regime)
    }

    pub(crate) fn other(&self, line: &str, regime: Regime) -> Option<&Other> {
        self.others.iter().find(|other| other.line == line && other.regime == regime)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "others": self.others.iter().map(Other::json).collect::<Vec<_>>(),
        })
    }

    /// What a place of a document shows, or nothing if that was not measured.
    fn section(&self, name: &str) -> Result<Option<String>, String> {
        Ok(match name {
            "machine" => Some(self.machine.clone()),
            "targets" => Some(targets::table_of_targets(self)),
            "extract" => Some(targets::extract(self)),
            _ => {
                let regime = Regime::ALL.into_iter().find(|regime| regime.name() == name);
                self.of_regime(regime.ok_or_else(|| format!("nothing is called {name:?}"))?)
            }
        })
    }

    fn of_regime(&self, regime: Regime) -> Option<String> {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.regime == regime).collect();
        if rows.is_empty() {
            return None;
        }
        let others: Vec<&Other> =
            self.others.iter().filter(|other| other.regime == regime).collect();
        let mut parts = vec![table(Row::head(), rows.iter().map(|row| row.text()))];
        if !others.is_empty() {
            parts.push(table(Other::head(), others.iter().map(|other| other.text())));
        }
        parts.push(health(&rows));
        Some(parts.join("\n\n"))
    }

    /// Writes the tables into the places that a document has for them.
    ///
    /// A place is between `<!-- compare: NAME -->` and `<!-- /compare -->`. One whose figures were
    /// not measured stays as it is.
    pub(crate) fn fill(&self, document: &Path) -> Result<(), String> {
        let failed = |reason: String| format!("{}: {reason}", document.display());
        let old = fs::read_to_string(document).map_err(|error| failed(error.to_string()))?;
        let (mut new, mut rest) = (String::new(), old.as_str());
        while let Some((before, name, content, after)) = next_place(rest).map_err(failed)? {
            new += before;
            match self.section(name).map_err(failed)? {
                Some(section) => new += &format!("\n{section}\n"),
                None => new += content,
            }
            rest = after;
        }
        if new.is_empty() {
            return Err(failed("it has no place for tables".to_owned()));
        }
        fs::write(document, new + rest).map_err(|error| failed(error.to_string()))
    }
}

type Place<'a> = (&'a str, &'a str, &'a str, &'a str);

/// The text up to the end of a place's first mark, its name, what it has, and what follows.
fn next_place(text: &str) -> Result<Option<Place<'_>>, String> {
    let Some(start) = text.find("<!-- compare: ") else { return Ok(None) };
    let name = &text[start + "<!-- compare: ".len()..];
    let (name, _) = name.split_once(" -->").ok_or("a mark has no end")?;
    let content = start + "<!-- compare: ".len() + name.len() + " -->".len();
    let length = text[content..].find("<!-- /compare -->");
    let end = content + length.ok_or_else(|| format!("the place {name:?} has no end"))?;
    Ok(Some((&text[..content], name, &text[content..end], &text[end..])))
}

pub(crate) fn table(head: String, rows: impl Iterator<Item = String>) -> String {
    [head].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}
