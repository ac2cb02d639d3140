//! Numbers as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// A duration: `0.42 s`, `12.3 s`, `1 min 23 s`, `2 h 03 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        _ if !seconds.is_finite() => "–".into(),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A size in memory or on disk: `812 KiB`, `512 MiB`, `1.23 GiB`.
pub fn bytes(bytes: f64) -> String {
    let (kibi, mebi, gibi) = (1024.0, 1048576.0, 1073741824.0);
    match bytes {
        b if b < kibi => format!("{b:.0} B"),
        b if b < mebi => format!("{:.0} KiB", b / kibi),
        b if b < 999.5 * mebi => format!("{:.0} MiB", b / mebi),
        b => format!("{:.2} GiB", b / gibi),
    }
}

/// A whole number with separators between thousands: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share: `0.0123%`, `1.35%`, `100%`.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".into();
    }
    match part as f64 / whole as f64 * 100.0 {
        100.0 => "100%".into(),
        percent if percent >= 1.0 => format!("{percent:.2}%"),
        0.0 => "0%".into(),
        percent => format!("{percent:.4}%"),
    }
}

/// `1 example`, `3 examples`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A metric's name as people write it: `F1 macro` for `f1_macro`.
pub fn metric(name: &str) -> String {
    let words = name.split('_').map(|word| if word == "f1" { "F1" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The time now in UTC, as RFC 3339 writes it.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    timestamp(seconds)
}

/// Seconds since 1970 as a date, after Howard Hinnant's `civil_from_days`.
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86400 + 719_468, seconds % 86400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    // Years begin in March here, so that the leap day is their last.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let words: Vec<String> = [0.0, 0.416, 9.994, 9.996, 59.94, 59.96, 83.2, 3599.4, 3599.6, 7384.0]
            .iter()
            .map(|&s| duration(s))
            .collect();
        let expected = [
            "0.00 s",
            "0.42 s",
            "9.99 s",
            "10.0 s",
            "59.9 s",
            "1 min 00 s",
            "1 min 23 s",
            "59 min 59 s",
            "1 h 00 min",
            "2 h 03 min",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!(bytes(1000.0), "1000 B");
        assert_eq!(bytes(536870912.0), "512 MiB");
        assert_eq!(bytes(1048471142.0), "0.98 GiB");
        assert_eq!([0, 999, 1000, 109486085].map(count), ["0", "999", "1,000", "109,486,085"]);
        assert_eq!(share(1, 10_000), "0.0100%");
        assert_eq!(share(135, 10_000), "1.35%");
        assert_eq!(share(5, 5), "100%");
        assert_eq!(plural(1, "cell"), "1 cell");
        assert_eq!(plural(1200, "cell"), "1,200 cells");
    }

    #[test]
    fn names_of_metrics() {
        assert_eq!(
            ["accuracy", "f1_macro", "conll_f1", "rouge1"].map(metric),
            ["accuracy", "F1 macro", "conll F1", "rouge1"]
        );
    }

    /// Against `date -u -d @SECONDS`.
    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(1_772_323_199), "2026-02-28T23:59:59Z");
        assert_eq!(timestamp(1_772_323_200), "2026-03-01T00:00:00Z");
    }
}
