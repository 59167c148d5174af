//! Text that users and back ends write to be shown to people: descriptions and purposes.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};

/// The variation selectors that make a symbol an emoji or not; they hide nothing.
const EMOJI: [char; 2] = ['\u{FE0E}', '\u{FE0F}'];

/// Whether everything in the text can be seen where it stands: no control character or line break, nothing
/// that turns the direction of writing around, nothing of no width. Such text could show another meaning
/// than it has.
#[must_use]
pub fn is_plain_text(text: &str) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new();
    let invisible = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    text.chars().all(|c| {
        let hidden = matches!(
            category.get(c),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::PrivateUse
        );
        !hidden && (EMOJI.contains(&c) || !invisible.contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_not_plain_text() {
        for hidden in [
            '\0',
            '\n',
            '\r',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0041}',
            '\u{e000}',
            '\u{fe00}',
        ] {
            assert!(!is_plain_text(&format!("my{hidden}key")), "{hidden:?}");
        }
    }

    #[test]
    fn words_of_any_script_and_emoji_are_plain_text() {
        for text in [
            "",
            "my key",
            "Schlüssel für Zuhause",
            "我的密钥",
            "مفتاحي",
            "המפתח שלי",
            "क्षत्रिय",
            "❤️ 🔑 no. 1",
            "a\u{a0}b",
            "e\u{301}",
        ] {
            assert!(is_plain_text(text), "{text:?}");
        }
    }
}
