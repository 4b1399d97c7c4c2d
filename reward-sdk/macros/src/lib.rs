//! `#[reward]`: makes a plugin of one function. Documented, with examples, as `reward_sdk::reward`.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Error, Expr, FnArg, ItemFn, LitStr, Result, Type};

/// Makes the function the plugin's whole behaviour; it can still be called under its own name.
#[proc_macro_attribute]
pub fn reward(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded =
        Declared::parse(arguments.into()).and_then(|declared| expand(&declared, syn::parse(item)?));
    expanded
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// The keys in the attribute's parentheses, all optional.
struct Declared {
    name: Option<LitStr>,
    version: Option<LitStr>,
    min: Option<Expr>,
    max: Option<Expr>,
    parts: Vec<LitStr>,
}

impl Declared {
    fn parse(arguments: Tokens) -> Result<Declared> {
        let mut declared = Declared {
            name: None,
            version: None,
            min: None,
            max: None,
            parts: Vec::new(),
        };
        let parser = syn::meta::parser(|meta| {
            let key = meta
                .path
                .get_ident()
                .map(ToString::to_string)
                .unwrap_or_default();
            match key.as_str() {
                "name" => declared.name = Some(meta.value()?.parse()?),
                "version" => declared.version = Some(meta.value()?.parse()?),
                "min" => declared.min = Some(meta.value()?.parse()?),
                "max" => declared.max = Some(meta.value()?.parse()?),
                "parts" => {
                    let listed;
                    let value = meta.value()?;
                    syn::bracketed!(listed in value);
                    declared.parts = listed
                        .parse_terminated(|part| part.parse::<LitStr>(), syn::Token![,])?
                        .into_iter()
                        .collect();
                }
                _ => {
                    return Err(meta.error(
                        "the keys are `name`, `version`, `min`, `max` and `parts = [\"…\"]`",
                    ));
                }
            }
            Ok(())
        });
        syn::parse::Parser::parse2(parser, arguments)?;
        Ok(declared)
    }

    /// An expression of type `reward_sdk::Info`.
    fn info(&self) -> Tokens {
        let name = self
            .name
            .as_ref()
            .map_or_else(|| quote!(env!("CARGO_PKG_NAME")), |name| quote!(#name));
        let version = self.version.as_ref().map_or_else(
            || quote!(env!("CARGO_PKG_VERSION")),
            |version| quote!(#version),
        );
        let min = self.min.as_ref().map(|min| quote!(min: #min,));
        let max = self.max.as_ref().map(|max| quote!(max: #max,));
        let parts = (!self.parts.is_empty()).then(|| {
            let parts = &self.parts;
            quote!(parts: &[#(#parts),*],)
        });
        quote!(::reward_sdk::Info { #min #max #parts ..::reward_sdk::Info::new(#name, #version) })
    }
}

/// Expands the function into a plugin. The type of its first parameter tells whether it judges a
/// completion or a group; a second parameter is its configuration.
fn expand(declared: &Declared, function: ItemFn) -> Result<Tokens> {
    let signature = &function.sig;
    let refused = |what: &str| Err(Error::new(signature.span(), what));
    if signature.asyncness.is_some() || !signature.generics.params.is_empty() {
        return refused("a reward is a plain function: not async, not generic");
    }
    let mut parameters = signature.inputs.iter();
    let Some(Type::Reference(first)) = parameters.next().and_then(type_of) else {
        return refused(
            "a reward takes `&Completion`, or `&[Completion]` for all samples of a prompt",
        );
    };
    let config = match (parameters.next().map(type_of), parameters.next()) {
        (None, _) => None,
        (Some(Some(Type::Reference(config))), None) => Some(&config.elem),
        _ => {
            return refused(
                "a reward takes the completion and, at most, a reference to its configuration: \
                 `config: &Config`",
            );
        }
    };
    let (name, info) = (&signature.ident, declared.info());
    let (field, argument) = match config {
        Some(config) => (quote!((#config)), quote!(, &self.0)),
        None => (quote!({}), quote!()),
    };
    // A newtype reads its configuration as the type inside would; without one, only an empty table
    // is accepted.
    let derive = match config {
        Some(_) => {
            quote!(#[derive(::reward_sdk::serde::Deserialize)] #[serde(crate =
                "::reward_sdk::serde", transparent)])
        }
        None => {
            quote!(#[derive(::reward_sdk::serde::Deserialize)] #[serde(crate =
                "::reward_sdk::serde", deny_unknown_fields)])
        }
    };
    let ending = config.map(|_| quote!(;));
    let (implementation, export) = match &*first.elem {
        Type::Slice(_) => (
            quote! {
                impl ::reward_sdk::GroupReward for Reward {
                    const INFO: ::reward_sdk::Info = #info;

                    fn score_group(
                        &self,
                        group: &[::reward_sdk::Completion],
                    ) -> ::std::vec::Vec<::reward_sdk::Result<::reward_sdk::Score>> {
                        #name(group #argument).into_iter()
                            .map(::reward_sdk::IntoVerdict::into_verdict).collect()
                    }
                }
            },
            quote!(::reward_sdk::export!(group Reward);),
        ),
        _ => (
            quote! {
                impl ::reward_sdk::Reward for Reward {
                    const INFO: ::reward_sdk::Info = #info;

                    fn score(
                        &self,
                        completion: &::reward_sdk::Completion,
                    ) -> ::reward_sdk::Result<::reward_sdk::Score> {
                        ::reward_sdk::IntoVerdict::into_verdict(#name(completion #argument))
                    }
                }
            },
            quote!(::reward_sdk::export!(Reward);),
        ),
    };
    Ok(quote! {
        #function

        /// The plugin that `#[reward]` made of the function above.
        #derive
        pub struct Reward #field #ending

        #implementation

        #export
    })
}

fn type_of(parameter: &FnArg) -> Option<&Type> {
    match parameter {
        FnArg::Typed(typed) => Some(&typed.ty),
        FnArg::Receiver(_) => None,
    }
}
