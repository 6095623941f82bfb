//! Minimum, median and maximum.

#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` where there is nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0
        };
        Some(Self { min: values[0], median, max: values[values.len() - 1] })
    }
}

/// The value below which `part` (0 to 1) of the sorted `values` lie.
pub fn percentile(sorted: &[u32], part: f64) -> u32 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
