//! The server's `metav1.Table` in columns, as kubectl sets them.

use serde_json::Value;

const GAP: usize = 3;

/// What to show of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Columns of lower priority too.
    pub wide: bool,
    /// A first column with the namespace.
    pub namespaces: bool,
    pub headers: bool,
}

/// A table being printed, perhaps in several parts: a watch sends rows one by one.
#[derive(Default)]
pub struct Printer {
    columns: Vec<Column>,
    widths: Vec<usize>,
}

struct Column {
    title: String,
    index: usize,
}

impl Printer {
    /// The table's text. Columns are as wide as the widest cell seen so far.
    pub fn print(&mut self, table: &Value, view: View) -> String {
        let first = self.columns.is_empty();
        if let Some(definitions) = table["columnDefinitions"].as_array().filter(|them| !them.is_empty()) {
            self.columns = columns(definitions, view.wide);
        }
        let rows: Vec<Vec<String>> =
            table["rows"].as_array().into_iter().flatten().map(|row| self.cells(row, view)).collect();
        let mut lines = Vec::new();
        if first && view.headers && !rows.is_empty() {
            let namespace = view.namespaces.then(|| "NAMESPACE".to_owned());
            lines.push(namespace.into_iter().chain(self.columns.iter().map(|column| column.title.clone())).collect());
        }
        lines.extend(rows);
        self.widen(&lines);
        lines.iter().map(|line| self.line(line)).collect()
    }

    fn cells(&self, row: &Value, view: View) -> Vec<String> {
        let namespace = view.namespaces.then(|| text(&row["object"]["metadata"]["namespace"]));
        namespace.into_iter().chain(self.columns.iter().map(|column| text(&row["cells"][column.index]))).collect()
    }

    fn widen(&mut self, lines: &[Vec<String>]) {
        for line in lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

fn columns(definitions: &[Value], wide: bool) -> Vec<Column> {
    let shown = definitions.iter().enumerate().filter(|(_, it)| wide || it["priority"].as_i64().unwrap_or(0) == 0);
    shown.map(|(index, it)| Column { title: text(&it["name"]).to_uppercase(), index }).collect()
}

fn text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_headers_come_once() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ip", "priority": 1}, {"name": "Age", "priority": 0}],
            "rows": [{"cells": ["long-name", "1.2.3.4", "5s"]}, {"cells": ["b", null, "1m"]}]});
        let view = View { headers: true, ..View::default() };
        let mut printer = Printer::default();
        assert_eq!(printer.print(&table, view), "NAME        AGE\nlong-name   5s\nb           1m\n");
        assert_eq!(printer.print(&json!({"rows": [{"cells": ["c", "", "2m"]}]}), view), "c           2m\n");
        let wide = View { wide: true, ..view };
        assert!(Printer::default().print(&table, wide).starts_with("NAME        IP        AGE\n"));
    }
}
