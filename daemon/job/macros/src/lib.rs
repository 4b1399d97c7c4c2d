//! The derives `Keys`, `Read` and `Write`: a struct's field is a setting, and all that the job file
//! does with it follows from the field.
//!
//! ```ignore
//! /// What `r1ctl explain` says of the table: the first paragraph of its documentation.
//! #[derive(Keys, Read, Write)]
//! #[settings(path = "sampler")]
//! pub struct Sampler {
//!     /// What `r1ctl explain` says of the key: the first paragraph of its documentation.
//!     ///
//!     /// What follows is for those who read the code.
//!     #[key(takes = integer(0, 65_536), default = 0, unit = "completions")]
//!     pub slots: u32,
//! }
//! ```
//!
//! A struct with a `path` is a table of the file; one without is a part of tables that name it. Its
//! own attribute also takes `meaning`, in place of the documentation, and `check`, a method that is
//! called when the struct has been read.
//!
//! | in `#[key(…)]` | |
//! |---|---|
//! | `default = 8` | the value, in TOML, of a key that is left out |
//! | `required = "…"` | it must be given; the text says what to write |
//! | `unset = "…"` | it may be left out; the text says what that means |
//! | `or = …` | the field's value where the table has none; it may name the other fields, and `table`, which is read |
//! | `takes = …` | the `Kind` of value, with its limits; left out, the field's type says it |
//! | `unit = "…"` | unit of the number |
//! | `name = "…"` | the key's name, where the field has another |
//! | `meaning = "…"` | what `explain` says, where it is no sentence that documents a field |
//! | `when = …` | the key is written only if this holds of the other fields |
//! | `with = module` | functions `kind`, `from_value` and `to_value` for a type that is no setting by itself |
//! | `part` | the field's own struct lends its keys to this table |
//! | `part, field(default = …, meaning = …, unit = …)` | … where one of them differs here; `name = …` is its key's, where that is not the field's |
//! | `tag` | the key's word decides which further keys the table has: its type reads and writes them |
//! | `none` | no key: `or` is the field's value |

mod attributes;

use attributes::{Field, Settings};
use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

/// Derives the keys of a table, or of a part of one.
#[proc_macro_derive(Keys, attributes(settings, key))]
pub fn keys(input: TokenStream) -> TokenStream {
    derive(input, keys_of)
}

/// Derives reading the struct from a table whose values have been checked.
#[proc_macro_derive(Read, attributes(settings, key))]
pub fn read(input: TokenStream) -> TokenStream {
    derive(input, read_of)
}

/// Derives writing the struct into a table.
#[proc_macro_derive(Write, attributes(settings, key))]
pub fn write(input: TokenStream) -> TokenStream {
    derive(input, write_of)
}

fn derive(input: TokenStream, implement: fn(&Settings) -> proc_macro2::TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    match Settings::parse(&input) {
        Ok(settings) => implement(&settings).into(),
        Err(error) => error.to_compile_error().into(),
    }
}

fn keys_of(settings: &Settings) -> proc_macro2::TokenStream {
    let name = &settings.name;
    let all = settings
        .fields
        .iter()
        .filter(|field| !field.none)
        .map(|field| {
            if field.part {
                part_keys(field)
            } else {
                own_key(field)
            }
        });
    let table = settings.path.as_ref().map(|path| {
        let meaning = &settings.meaning;
        quote! {
            impl crate::file::Tabled for #name {
                fn table() -> &'static crate::file::Table {
                    static TABLE: std::sync::OnceLock<crate::file::Table> =
                        std::sync::OnceLock::new();
                    TABLE.get_or_init(|| {
                        let keys = <#name as crate::file::Keys>::keys();
                        crate::file::Table::new(#path, #meaning, keys)
                    })
                }
            }
        }
    });
    quote! {
        impl crate::file::Keys for #name {
            fn keys() -> Vec<crate::file::Key> {
                let mut keys = Vec::new();
                #(#all)*
                keys
            }
        }
        #table
    }
}

/// Adds the key of a field.
fn own_key(field: &Field) -> proc_macro2::TokenStream {
    let (key, unit, meaning) = (&field.key, &field.unit, &field.meaning);
    let ty = &field.ty;
    let kind = match (&field.takes, &field.with) {
        (Some(takes), _) => quote! {{
            #[allow(unused_imports)]
            use crate::file::kinds::*;
            #takes
        }},
        (None, Some(with)) => quote!(#with::kind()),
        (None, None) => quote!(<#ty as crate::file::Setting>::kind()),
    };
    let default = field.default.tokens();
    quote! {
        keys.push(crate::file::Key {
            name: #key,
            kind: #kind,
            default: #default,
            unit: #unit,
            meaning: #meaning,
        });
    }
}

/// Adds the keys of a field that is a part, with what this table says otherwise of them.
fn part_keys(field: &Field) -> proc_macro2::TokenStream {
    let ty = &field.ty;
    let changes = field.changes.iter().map(|change| {
        let (part_field, key) = (&change.field, &change.key);
        let default = change.default.as_ref().map(|default| {
            let default = default.tokens();
            quote!(key.default = #default;)
        });
        let meaning = change
            .meaning
            .as_ref()
            .map(|text| quote!(key.meaning = #text;));
        let unit = change.unit.as_ref().map(|text| quote!(key.unit = #text;));
        quote! {
            // A part without such a field does not compile.
            let _ = |part: &#ty| { let _ = &part.#part_field; };
            for key in part.iter_mut().filter(|key| key.name == #key) {
                #default
                #meaning
                #unit
            }
        }
    });
    quote! {{
        #[allow(unused_mut)]
        let mut part = <#ty as crate::file::Keys>::keys();
        #(#changes)*
        keys.extend(part);
    }}
}

fn read_of(settings: &Settings) -> proc_macro2::TokenStream {
    let name = &settings.name;
    // What stands in for a key that is left out may name any other field. What a tag decides is
    // read once the table's other keys are known to be right.
    let mut order: Vec<&Field> = settings.fields.iter().collect();
    order.sort_by_key(|field| (field.tag, field.or.is_some()));
    let steps = order.into_iter().map(|field| {
        let (field_name, key, ty) = (&field.name, &field.key, &field.ty);
        match (&field.or, &field.with) {
            _ if field.part => quote! {
                let #field_name = <#ty as crate::file::Read>::read(table)?;
            },
            (Some(or), _) if field.none => quote!(let #field_name: #ty = #or;),
            (Some(or), _) => quote! {
                let #field_name = match table.read::<Option<#ty>>(#key)? {
                    Some(given) => given,
                    None => #or,
                };
            },
            (None, Some(with)) => {
                quote!(let #field_name: #ty = table.read_with(#key, #with::from_value)?;)
            }
            (None, None) => quote!(let #field_name = table.read::<#ty>(#key)?;),
        }
    });
    let fields = settings.fields.iter().map(|field| &field.name);
    let check = settings
        .check
        .as_ref()
        .map(|check| quote!(read.#check(table)?;));
    quote! {
        impl crate::file::Read for #name {
            fn read(table: &crate::file::Fields<'_>) -> Result<Self, crate::error::JobError> {
                #(#steps)*
                let read = Self { #(#fields),* };
                #check
                Ok(read)
            }
        }
    }
}

fn write_of(settings: &Settings) -> proc_macro2::TokenStream {
    let name = &settings.name;
    let steps = settings
        .fields
        .iter()
        .filter(|field| !field.none)
        .map(|field| {
            let (field_name, key) = (&field.name, &field.key);
            let step = match &field.with {
                _ if field.part => quote!(crate::file::Write::write(&self.#field_name, to);),
                Some(with) => {
                    quote!(crate::file::put(to, #key, #with::to_value(&self.#field_name));)
                }
                None => quote! {
                    crate::file::put(to, #key, crate::file::Setting::to_value(&self.#field_name));
                },
            };
            let tagged = field
                .tag
                .then(|| quote!(crate::file::Write::write(&self.#field_name, to);));
            match &field.when {
                Some(when) => quote!(if #when { #step #tagged }),
                None => quote!(#step #tagged),
            }
        });
    quote! {
        impl crate::file::Write for #name {
            fn write(&self, to: &mut toml::Table) {
                #(#steps)*
            }
        }
    }
}
