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
        .map(|option| (edit_distance(&lower, &option.to_lowercase()), option))
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

/// Edits between two words: a character put in, left out, replaced, or two neighbours swapped.
///
/// Takes time and memory of the product of their lengths.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, edits) | (edits, 0) => edits,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let edits = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if swapped { edits.min(rows[i - 2][j - 2] + 1) } else { edits }
                }
            };
        }
    }
    rows[a.len()][b.len()]
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
            ("RNU", Some("RUN")),
            ("EXEC", None),
        ] {
            assert_eq!(nearest(word, &options).as_deref(), expected, "{word}");
        }
    }
}
