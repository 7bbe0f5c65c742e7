//! "Did you mean …": the nearest of the words that would have been right.

/// Words further away than this are no suggestion.
const LIMIT: usize = 2;

/// The option nearest to `word`, if one is near; the first of equals. In the case of `word` when
/// that is all upper or all lower case.
pub(crate) fn nearest(word: &str, options: &[&str]) -> Option<String> {
    // Nothing near can be longer, and the table below is quadratic.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let (_, option) = options
        .iter()
        .map(|option| (distance(&lower, &option.to_lowercase()), option))
        .filter(|(distance, _)| *distance <= LIMIT)
        .min_by_key(|(distance, _)| *distance)?;
    Some(if word == lower {
        option.to_lowercase()
    } else if word == word.to_uppercase() {
        option.to_uppercase()
    } else {
        (*option).to_owned()
    })
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_in_the_case_of_the_word() {
        let options = ["FROM", "RUN", "COPY", "WORKDIR"];
        for (word, expected) in [
            ("FORM", Some("FROM")),
            ("form", Some("from")),
            ("workdi", Some("workdir")),
            ("COPPY", Some("COPY")),
            ("EXEC", None),
        ] {
            assert_eq!(nearest(word, &options).as_deref(), expected, "{word}");
        }
    }
}
