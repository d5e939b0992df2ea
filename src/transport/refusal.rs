//! Why a handshake was refused, typed and in words, on both sides of it.
//!
//! A verifier can only hand rustls an error, quinn turns that into a text, and the same text reaches the other side in
//! the close frame. So a refusal writes itself into the text as `[meshwork CODE: words]` and is read back from it, here
//! and over there. What comes from the other side is a hint for people, bounded and printable; nothing is decided by it.
//! Where there is no such mark (other software, a cut-off text), the TLS alert number (RFC 8446 §6) gives the reason.

use rustls::{CertificateError, OtherError};
use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Longest text of a refusal in bytes: it must fit the close frame of one packet.
const TEXT_BYTES_MAX: usize = 400;

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Signed by an authority the other side does not have.
    UnknownAuthority,
    /// A certificate of another cluster.
    WrongCluster,
    /// A role that may not do this.
    WrongRole,
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not begun.
    NotYetValid,
    /// No usable `meshwork://` name in the certificate.
    NoName,
    /// No certificate was shown.
    NoCertificate,
    /// No key exchange in common: one side insists on a post-quantum one.
    NoPostQuantum,
    /// The other side does not speak `meshwork/1`.
    NoProtocol,
    /// Anything else TLS found wrong.
    Other,
}

impl RefusalReason {
    const ALL: [Self; 10] = [
        Self::UnknownAuthority,
        Self::WrongCluster,
        Self::WrongRole,
        Self::Expired,
        Self::NotYetValid,
        Self::NoName,
        Self::NoCertificate,
        Self::NoPostQuantum,
        Self::NoProtocol,
        Self::Other,
    ];

    /// A short stable word, for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "unknown-authority",
            Self::WrongCluster => "wrong-cluster",
            Self::WrongRole => "wrong-role",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::NoName => "no-name",
            Self::NoCertificate => "no-certificate",
            Self::NoPostQuantum => "no-post-quantum",
            Self::NoProtocol => "no-protocol",
            Self::Other => "other",
        }
    }
}

/// A refused handshake. `Display` is one line that names the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRefusal {
    /// What kind.
    pub reason: RefusalReason,
    /// In words.
    pub text: String,
}

impl TlsRefusal {
    pub(crate) fn new(reason: RefusalReason, text: impl AsRef<str>) -> Self {
        let mut kept = String::new();
        for c in text.as_ref().chars() {
            let c = if c.is_control() || c == ']' { '?' } else { c };
            if kept.len() + c.len_utf8() > TEXT_BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self { reason, text: kept }
    }

    /// The form in which rustls carries it. `CertificateError::Other` makes the alert `certificate_unknown`.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Marked(self)))))
    }

    /// Reads the refusal out of a transport error: its code (0x100 + alert for TLS) and its text. `None` when the code
    /// is not one of TLS.
    pub(crate) fn read(code: u64, text: &str) -> Option<Self> {
        let alert = code.checked_sub(0x100).filter(|alert| *alert < 0x100)?;
        if let Some((_, marked)) = text.split_once("[meshwork ")
            && let Some((code, words)) = marked.split_once(": ")
            && let Some(reason) = RefusalReason::ALL.into_iter().find(|reason| reason.code() == code)
        {
            return Some(Self::new(reason, words.split(']').next().unwrap_or(words)));
        }
        let (reason, words) = match alert {
            40 | 47 if text.contains("NoKxGroupsInCommon") || text.contains("KxGroup") || text.is_empty() => (
                RefusalReason::NoPostQuantum,
                "no key exchange in common; pq = \"required\" on one side needs X25519MLKEM768 on the other",
            ),
            45 => (RefusalReason::Expired, "the certificate has expired or is not valid yet"),
            48 => (RefusalReason::UnknownAuthority, "the certificate is signed by an unknown authority"),
            116 => (RefusalReason::NoCertificate, "no certificate was shown"),
            120 => (RefusalReason::NoProtocol, "the other side does not speak meshwork/1"),
            _ if text.is_empty() => return Some(Self::new(RefusalReason::Other, format!("TLS alert {alert}"))),
            _ => (RefusalReason::Other, text),
        };
        Some(Self::new(reason, words))
    }
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsRefusal {}

/// A refusal as it travels; rustls prints an error's `Debug` or `Display` depending on where it is nested.
struct Marked(TlsRefusal);

impl fmt::Debug for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[meshwork {}: {}]", self.0.reason.code(), self.0.text)
    }
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Marked {}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_refusal_is_read_back_from_the_text_it_travelled_in() {
        for reason in RefusalReason::ALL {
            let refusal = TlsRefusal::new(reason, "certificate is of cluster \"a\", expected \"b\"");
            let text = refusal.clone().into_rustls().to_string();
            assert_eq!(TlsRefusal::read(0x100 + 46, &text), Some(refusal));
        }
    }

    #[test]
    fn an_alert_without_our_mark_still_gives_a_reason() {
        assert_eq!(TlsRefusal::read(0x100 + 48, "").unwrap().reason, RefusalReason::UnknownAuthority);
        assert_eq!(TlsRefusal::read(0x100 + 120, "x").unwrap().reason, RefusalReason::NoProtocol);
        assert_eq!(TlsRefusal::read(0x100 + 80, "\u{1b}[31mx").unwrap().text, "?[31mx");
        assert_eq!(TlsRefusal::read(7, "[meshwork expired: x]"), None);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
