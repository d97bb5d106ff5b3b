//! What lists look like: aligned columns under a line of headings.

use super::say;

/// Rows of plain text. Shown as nothing at all while there is no row.
pub struct Table<const COLUMNS: usize> {
    /// The headings first.
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub fn new(headings: [&str; COLUMNS]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
        }
    }

    pub fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    /// Prints the table.
    pub fn show(&self) -> std::io::Result<()> {
        if self.rows.len() == 1 {
            return Ok(());
        }
        let mut widths = [0; COLUMNS];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let line: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            say(line.join("  ").trim_end())?;
        }
        Ok(())
    }
}
