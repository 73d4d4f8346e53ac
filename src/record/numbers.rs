//! Numbers as people read them.

/// A number with four or five digits, and with an exponent only where it would be long without.
pub fn five_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        a if a < 1e-3 => format!("{value:.2e}"),
        a if a < 10.0 => format!("{value:.4}"),
        a if a < 1000.0 => format!("{value:.2}"),
        a if a >= 1e7 => format!("{value:.3e}"),
        _ => format!("{value:.0}"),
    }
}

/// A number with as many decimals as it takes to tell values apart that lie within `span` of each other: the label
/// of an axis.
pub fn axis_label(value: f64, span: f64) -> String {
    let decimals = (1.0 - span.log10()).ceil().clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    // A small negative value must not become "-0.0".
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        return text.trim_start_matches('-').to_owned();
    }
    text
}

/// A whole number with commas between its thousands: 12345 as 12,345.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A time in its two largest units: `2 h 5 min`, `7 min 12 s` or `3 s`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, -1234567].map(thousands), ["0", "999", "1,000", "-1,234,567"]);
        assert_eq!(axis_label(0.12345, 1.0), "0.1");
        assert_eq!(axis_label(0.12345, 0.01), "0.123");
        assert_eq!(axis_label(-0.001, 1.0), "0.0");
        assert_eq!(axis_label(1234.4, 2000.0), "1234");
        let values = [0.0, -0.00012345, 1.23456, 123.456, 12345.6, -123456789.0];
        let told = ["0", "-1.23e-4", "1.2346", "123.46", "12346", "-1.235e8"];
        assert_eq!(values.map(five_digits), told);
        assert_eq!([2.6, 432.0, 7500.0].map(duration), ["3 s", "7 min 12 s", "2 h 5 min"]);
    }
}
