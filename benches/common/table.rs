//! Prints a table.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

/// Prints aligned columns separated by bars, and an empty line at the end.
pub(crate) fn print_aligned(lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join(" | ").trim_end());
    }
    println!();
}
