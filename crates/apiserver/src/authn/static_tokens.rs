//! `--token-auth-file`: tokens that an administrator wrote down, one a line: token, user, uid and,
//! in quotes, groups.
//!
//! Source: apiserver/pkg/authentication/token/tokenfile.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::User;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {why}")]
pub struct LineError {
    line: usize,
    why: &'static str,
}

/// Looked up by digest, so that the time of a comparison tells nothing about a token.
#[derive(Default)]
pub struct StaticTokens {
    users: HashMap<[u8; 32], User>,
}

impl StaticTokens {
    /// A later line for the same token counts.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |why| LineError { line: number, why };
            let fields = fields(line).ok_or_else(|| wrong("a quote is not closed"))?;
            let [token, name, uid, groups @ ..] = fields.as_slice() else {
                return Err(wrong("token, user name and user uid are needed"));
            };
            if token.is_empty() {
                return Err(wrong("the token is empty"));
            }
            let groups = groups.first().map(String::as_str).unwrap_or_default().split(',').map(str::trim);
            let user = User {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.filter(|group| !group.is_empty()).map(str::to_owned).collect(),
                ..User::default()
            };
            users.insert(Sha256::digest(token).into(), user);
        }
        Ok(Self { users })
    }

    pub fn user(&self, token: &str) -> Option<User> {
        if self.users.is_empty() {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.users.get(&digest).cloned()
    }
}

/// A line of comma-separated values, those with commas in quotes (RFC 4180). `None`: an open quote.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        let field = fields.last_mut().expect("there is always one");
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    (!is_quoted).then(|| fields.iter().map(|field| field.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_users() {
        let tokens = StaticTokens::parse("abc,bob,7,\"devs,ops\"\n\nxyz, eve, 8\nabc,carol,9,one\n").expect("parses");
        let carol = tokens.user("abc").expect("known");
        assert_eq!(
            (carol.name.as_str(), carol.uid.as_str(), carol.groups.as_slice()),
            ("carol", "9", &["one".to_owned()][..])
        );
        assert_eq!(tokens.user("xyz").expect("known").name, "eve");
        assert_eq!(tokens.user("ab"), None);
        assert_eq!(StaticTokens::parse("t,u,1,\"a, b\"").expect("parses").user("t").expect("known").groups, ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_token() {
        for (text, expected) in [
            ("secret,bob", "line 1: token, user name and user uid are needed"),
            ("a,b,c\n,bob,7", "line 2: the token is empty"),
            ("secret,bob,7,\"devs", "line 1: a quote is not closed"),
        ] {
            assert_eq!(StaticTokens::parse(text).err().map(|error| error.to_string()).as_deref(), Some(expected));
        }
    }
}
