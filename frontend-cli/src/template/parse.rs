//! From the text of a template to what it says.

use serde_json::Value;

use super::functions::Function;
use super::{Command, Node, Pipeline, TemplateError, Term};

/// Blocks and brackets within each other; nobody means more.
const MAX_DEPTH: usize = 50;

/// A text between actions, or what stands within `{{ }}`.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(String),
    Action(&'a str),
}

/// What an action is made of.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name, a field, a number.
    Word(String),
    Quoted(String),
    Bar,
    Open,
    Close,
}

/// How a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Text,
    Else,
    Block,
}

/// The nodes of a whole template.
pub(super) fn nodes(text: &str) -> Result<Vec<Node>, TemplateError> {
    let pieces = pieces(text)?;
    let mut pieces = pieces.into_iter();
    match block(&mut pieces, 0)? {
        (nodes, End::Text) => Ok(nodes),
        (_, End::Else) => Err(TemplateError::new("`{{else}}` without `{{if}}`")),
        (_, End::Block) => Err(TemplateError::new("`{{end}}` without `{{if}}` or `{{range}}`")),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let open = rest.find("{{");
        let mut plain = &rest[..open.unwrap_or(rest.len())];
        if std::mem::take(&mut trim_next) {
            plain = plain.trim_start();
        }
        let Some(open) = open else {
            push_text(&mut pieces, plain);
            return Ok(pieces);
        };
        let inside = &rest[open + 2..];
        let inside = match inside.strip_prefix('-') {
            Some(inside) if inside.starts_with(char::is_whitespace) => {
                plain = plain.trim_end();
                inside
            }
            _ => inside,
        };
        push_text(&mut pieces, plain);
        let close = end_of_action(inside)
            .ok_or_else(|| TemplateError::new(format!("`{{{{{inside}` has no `}}}}`")))?;
        let mut action = &inside[..close];
        if let Some(before) = action.strip_suffix('-').filter(|a| a.ends_with(char::is_whitespace))
        {
            (action, trim_next) = (before, true);
        }
        pieces.push(Piece::Action(action.trim()));
        rest = &inside[close + 2..];
    }
}

/// `\t` and `\n` are what a shell's quotes leave of them.
fn push_text(pieces: &mut Vec<Piece<'_>>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

/// Where `}}` is, that of a quoted text aside.
fn end_of_action(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, mark @ (b'"' | b'`')) => quote = Some(mark),
            (Some(b'"'), b'\\') => at += 1,
            (Some(mark), byte) if mark == byte => quote = None,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Nodes up to the end of the block that they are in.
fn block<'a>(
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    depth: usize,
) -> Result<(Vec<Node>, End), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("the template has too many blocks within each other"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
        match word {
            "end" if rest.trim().is_empty() => return Ok((nodes, End::Block)),
            "else" if rest.trim().is_empty() => return Ok((nodes, End::Else)),
            "else" => {
                let error = TemplateError::new(format!("`{{{{{action}}}}}` is not understood"));
                return Err(error.hint("write {{else}}{{if …}}…{{end}}"));
            }
            "if" => {
                let condition = pipeline(rest)?;
                let (then, otherwise) = branches(pieces, word, depth)?;
                nodes.push(Node::If { condition, then, otherwise });
            }
            "range" => {
                let over = pipeline(rest)?;
                let (body, otherwise) = branches(pieces, word, depth)?;
                nodes.push(Node::Range { over, body, otherwise });
            }
            "with" | "define" | "template" | "block" | "break" | "continue" => {
                let error = TemplateError::new(format!("`{{{{{word}}}}}` is not understood"));
                return Err(error.hint("possible are fields, functions, {{if}} and {{range}}"));
            }
            _ if action.starts_with("/*") => {}
            _ => nodes.push(Node::Show(pipeline(action)?)),
        }
    }
    Ok((nodes, End::Text))
}

fn branches<'a>(
    pieces: &mut impl Iterator<Item = Piece<'a>>,
    word: &str,
    depth: usize,
) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let (first, end) = block(pieces, depth + 1)?;
    let (second, end) = match end {
        End::Else => block(pieces, depth + 1)?,
        end => (Vec::new(), end),
    };
    match end {
        End::Block => Ok((first, second)),
        _ => Err(TemplateError::new(format!("`{{{{{word}}}}}` has no `{{{{end}}}}`"))),
    }
}

fn pipeline(text: &str) -> Result<Pipeline, TemplateError> {
    let tokens = tokens(text)?;
    let mut tokens = tokens.into_iter().peekable();
    let pipeline = commands(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err(TemplateError::new(format!("`{text}` has a `)` too many"))),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut letters = text.char_indices().peekable();
    while let Some((start, letter)) = letters.next() {
        match letter {
            '|' => tokens.push(Token::Bar),
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '"' | '`' => {
                let mut quoted = String::new();
                loop {
                    match letters.next() {
                        None => {
                            let message = format!("`{}` has no end quote", &text[start..]);
                            return Err(TemplateError::new(message));
                        }
                        Some((_, end)) if end == letter => break,
                        Some((_, '\\')) if letter == '"' => match letters.next() {
                            Some((_, 't')) => quoted.push('\t'),
                            Some((_, 'n')) => quoted.push('\n'),
                            Some((_, other)) => quoted.push(other),
                            None => {}
                        },
                        Some((_, other)) => quoted.push(other),
                    }
                }
                tokens.push(Token::Quoted(quoted));
            }
            letter if letter.is_whitespace() => {}
            letter => {
                let mut word = String::from(letter);
                while let Some((_, next)) =
                    letters.next_if(|(_, next)| !next.is_whitespace() && !"|()\"`".contains(*next))
                {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

/// Commands up to the end, or to the bracket that ends them.
fn commands(tokens: &mut Tokens, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("the template has too many brackets within each other"));
    }
    let mut commands: Vec<Command> = Vec::new();
    loop {
        let command = command(tokens, depth)?;
        let piped = usize::from(!commands.is_empty());
        match (command.function, command.arguments.len()) {
            (Some(function), count) => function.check_count(count + piped)?,
            (None, 1) if piped == 0 => {}
            (None, 0) => return Err(TemplateError::new("a field or a function is missing")),
            (None, _) => {
                let error = TemplateError::new("several values stand side by side");
                return Err(error.hint("write {{.One}} {{.Other}}, or a function before them"));
            }
        }
        commands.push(command);
        if tokens.next_if_eq(&Token::Bar).is_none() {
            return Ok(Pipeline { commands });
        }
    }
}

fn command(tokens: &mut Tokens, depth: usize) -> Result<Command, TemplateError> {
    let mut command = Command { function: None, arguments: Vec::new() };
    let mut is_first = true;
    while let Some(token) = tokens.next_if(|token| !matches!(token, Token::Bar | Token::Close)) {
        let is_name = |word: &str| word.starts_with(|c: char| c.is_alphabetic());
        match token {
            Token::Quoted(text) => command.arguments.push(Term::Literal(Value::String(text))),
            Token::Word(word) if word == "true" || word == "false" => {
                command.arguments.push(Term::Literal(Value::Bool(word == "true")));
            }
            Token::Word(word) if is_name(&word) && is_first => {
                command.function = Some(Function::find(&word)?);
            }
            Token::Word(word) => command.arguments.push(term(&word)?),
            Token::Open => {
                let inner = commands(tokens, depth + 1)?;
                if tokens.next_if_eq(&Token::Close).is_none() {
                    return Err(TemplateError::new("a `(` has no `)`"));
                }
                command.arguments.push(Term::Nested(inner));
            }
            Token::Bar | Token::Close => {}
        }
        is_first = false;
    }
    Ok(command)
}

fn term(word: &str) -> Result<Term, TemplateError> {
    let (from_row, path) = match word.strip_prefix('$') {
        Some("") => return Ok(Term::Field { from_row: true, path: Vec::new() }),
        Some(path) => (true, path),
        None => (false, word),
    };
    if path == "." {
        return Ok(Term::Field { from_row, path: Vec::new() });
    }
    if let Some(names) = path.strip_prefix('.') {
        let path: Vec<String> = names.split('.').map(str::to_owned).collect();
        let is_name = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        if path.iter().all(is_name) {
            return Ok(Term::Field { from_row, path });
        }
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Term::Literal(number.into()));
    }
    let error = TemplateError::new(format!("`{word}` is not understood"));
    Err(error.hint("a field begins with a dot: {{.ID}}"))
}
