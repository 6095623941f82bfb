//! The table that is printed at the end: a row for each promise, what must be, ours, nginx's, HAProxy's.

use std::fmt::Write as _;
use std::sync::Mutex;

use crate::fronts::Kind;

/// What is measured, and what must come out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) must: &'static str,
}

/// Filled by many tasks at once; shown in the order of [`Table::new`].
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    cells: Mutex<Vec<Cell>>,
}

#[derive(Debug)]
struct Cell {
    row: &'static str,
    kind: Kind,
    text: String,
    is_right: bool,
}

// === impl Table ===

impl Table {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { rows, cells: Mutex::default() }
    }

    /// Notes a figure, and whether it is what must be.
    #[expect(clippy::print_stdout, reason = "minutes are long without a sign of life")]
    pub(crate) fn note(&self, row: Row, kind: Kind, text: impl Into<String>, is_right: bool) {
        assert!(self.rows.iter().any(|known| known.name == row.name), "{} is not in the table", row.name);
        let text = text.into();
        println!("{}: {}: {text}{}", row.name, kind.name(), if is_right { "" } else { " (!)" });
        self.cells.lock().unwrap().push(Cell { row: row.name, kind, text, is_right });
    }

    /// The table as text, and what weigate did not show: wrong figures, and rows without one.
    pub(crate) fn finish(&self) -> (String, Vec<String>) {
        let cells = self.cells.lock().unwrap();
        let mut lines = vec![["figure", "must be", "weigate", "nginx", "HAProxy"].map(str::to_owned)];
        let mut faults = Vec::new();
        for row in &self.rows {
            let of = |kind| cells.iter().filter(move |cell| cell.row == row.name && cell.kind == kind);
            let shown = |kind| of(kind).map(|cell| cell.text.as_str()).collect::<Vec<_>>().join("; ");
            let [ours, nginx, haproxy] = Kind::ALL.map(shown);
            match of(Kind::Weigate).find(|cell| !cell.is_right) {
                Some(wrong) => faults.push(format!("{}: {} ({})", row.name, wrong.text, row.must)),
                None if ours.is_empty() => faults.push(format!("{}: not measured", row.name)),
                None => {}
            }
            let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            lines.push([
                row.name.to_owned(),
                row.must.to_owned(),
                or_none(ours),
                or_none(nginx),
                or_none(haproxy),
            ]);
        }
        (laid_out(&lines), faults)
    }
}

fn laid_out(lines: &[[String; 5]]) -> String {
    let widths: Vec<usize> =
        (0..5).map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            write!(text, "| {cell:width$} ").unwrap();
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                write!(text, "|{}", "-".repeat(width + 2)).unwrap();
            }
            text.push_str("|\n");
        }
    }
    text
}
