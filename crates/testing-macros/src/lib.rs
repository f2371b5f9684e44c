//! The attribute `#[test]` of `qrlogin-testing`, which documents it.

use proc_macro::{TokenStream, TokenTree};

/// Registers a function, async or not, as a test. `needs(…)` names its requirements, and `ignore = "…"` is the reason
/// for which it runs only on request.
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let (mut needs, mut ignored) = (String::new(), "None".to_owned());
    let mut tokens = attribute.into_iter();
    while let Some(token) = tokens.next() {
        if token.to_string() == "," {
            continue;
        }
        match (token.to_string().as_str(), tokens.next()) {
            ("needs", Some(TokenTree::Group(group))) => {
                for need in group.stream().into_iter().filter(|token| matches!(token, TokenTree::Ident(_))) {
                    needs.push_str(&format!("::qrlogin_testing::Need::{need},"));
                }
            }
            ("ignore", Some(_)) => {
                let reason = tokens.next().map(|reason| reason.to_string()).unwrap_or_default();
                ignored = format!("Some({reason})");
            }
            _ => return r#"compile_error!("expected needs(…) or ignore = \"…\"");"#.parse().unwrap(),
        }
    }
    let words: Vec<_> = item.clone().into_iter().map(|token| token.to_string()).collect();
    let Some(function) = words.iter().position(|word| word == "fn") else {
        return r#"compile_error!("expected a function");"#.parse().unwrap();
    };
    let name = &words[function + 1];
    let call = if words[..function].iter().any(|word| word == "async") {
        format!("::qrlogin_testing::block_on({name}())")
    } else {
        format!("{name}()")
    };
    let registration = format!(
        "::qrlogin_testing::inventory::submit! {{
            ::qrlogin_testing::Test {{
                path: concat!(module_path!(), \"::{name}\"),
                needs: &[{needs}],
                ignored: {ignored},
                run: || ::qrlogin_testing::Outcome::result({call}),
            }}
        }}"
    );
    let mut tokens: TokenStream = registration.parse().unwrap();
    tokens.extend(item);
    tokens
}
