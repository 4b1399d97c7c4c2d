//! What a struct and its fields say in their attributes and documentation.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Ident, LitStr, Path, Result, Type};

/// A struct of settings.
pub(crate) struct Settings {
    pub name: Ident,
    /// Path of the table; `None`: a part of other tables.
    pub path: Option<LitStr>,
    pub meaning: String,
    /// Method that is called when the struct has been read.
    pub check: Option<Ident>,
    pub fields: Vec<Field>,
}

/// A field: one setting, or a part that has several.
pub(crate) struct Field {
    pub name: Ident,
    pub ty: Type,
    /// Name of the key.
    pub key: String,
    pub takes: Option<Expr>,
    pub default: Default,
    pub unit: String,
    pub meaning: TokenStream,
    pub or: Option<Expr>,
    pub when: Option<Expr>,
    pub with: Option<Path>,
    pub part: bool,
    pub tag: bool,
    pub none: bool,
    /// What differs here in the keys of a part.
    pub changes: Vec<Change>,
}

/// What holds when a key is left out.
pub(crate) enum Default {
    /// The default is that of an empty table.
    Empty,
    /// TOML text.
    Value(String),
    Required(Expr),
    Unset(Expr),
}

/// What differs in one key of a part.
pub(crate) struct Change {
    pub field: Ident,
    pub key: String,
    pub default: Option<Default>,
    pub meaning: Option<Expr>,
    pub unit: Option<LitStr>,
}

impl Default {
    pub(crate) fn tokens(&self) -> TokenStream {
        match self {
            Default::Empty => quote!(crate::file::Default::Value("{}")),
            Default::Value(text) => quote!(crate::file::Default::Value(#text)),
            Default::Required(text) => quote!(crate::file::Default::Required(#text)),
            Default::Unset(text) => quote!(crate::file::Default::Unset(#text)),
        }
    }
}

impl Settings {
    pub(crate) fn parse(input: &DeriveInput) -> Result<Settings> {
        let Data::Struct(data) = &input.data else {
            return Err(Error::new_spanned(
                input,
                "settings are the fields of a struct",
            ));
        };
        let Fields::Named(fields) = &data.fields else {
            return Err(Error::new_spanned(
                input,
                "each setting needs a field with a name",
            ));
        };
        let mut settings = Settings {
            name: input.ident.clone(),
            path: None,
            meaning: first_paragraph(&input.attrs),
            check: None,
            fields: fields
                .named
                .iter()
                .map(Field::parse)
                .collect::<Result<_>>()?,
        };
        each_meta(&input.attrs, "settings", |meta| {
            match word(&meta)?.as_str() {
                "path" => settings.path = Some(meta.value()?.parse()?),
                "meaning" => settings.meaning = meta.value()?.parse::<LitStr>()?.value(),
                "check" => settings.check = Some(meta.value()?.parse()?),
                _ => return Err(meta.error("expected `path`, `meaning` or `check`")),
            }
            Ok(())
        })?;
        Ok(settings)
    }
}

impl Field {
    fn parse(field: &syn::Field) -> Result<Field> {
        let name = field
            .ident
            .clone()
            .ok_or_else(|| Error::new_spanned(field, "a setting has a name"))?;
        let text = first_paragraph(&field.attrs);
        let mut parsed = Field {
            key: name.to_string(),
            name,
            ty: field.ty.clone(),
            takes: None,
            default: Default::Empty,
            unit: String::new(),
            meaning: quote!(#text),
            or: None,
            when: None,
            with: None,
            part: false,
            tag: false,
            none: false,
            changes: Vec::new(),
        };
        each_meta(&field.attrs, "key", |meta| parsed.take(&meta))?;
        if parsed.none && parsed.or.is_none() {
            return Err(Error::new_spanned(
                field,
                "`none` needs `or`, the field's value",
            ));
        }
        Ok(parsed)
    }

    /// Takes one word of `#[key(…)]`.
    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        match word(meta)?.as_str() {
            "part" => self.part = true,
            "tag" => self.tag = true,
            "none" => self.none = true,
            "takes" => self.takes = Some(meta.value()?.parse()?),
            "default" => self.default = Default::Value(toml(&meta.value()?.parse()?)?),
            "required" => self.default = Default::Required(meta.value()?.parse()?),
            "unset" => self.default = Default::Unset(meta.value()?.parse()?),
            "or" => self.or = Some(meta.value()?.parse()?),
            "unit" => self.unit = meta.value()?.parse::<LitStr>()?.value(),
            "name" => self.key = meta.value()?.parse::<LitStr>()?.value(),
            "meaning" => self.meaning = meta.value()?.parse::<Expr>()?.into_token_stream(),
            "when" => self.when = Some(meta.value()?.parse()?),
            "with" => self.with = Some(meta.value()?.parse()?),
            other if self.part => self.changes.push(Change::parse(other, meta)?),
            other => return Err(meta.error(format!("`{other}` says nothing of a key"))),
        }
        Ok(())
    }
}

impl Change {
    fn parse(field: &str, meta: &ParseNestedMeta<'_>) -> Result<Change> {
        let mut change = Change {
            field: Ident::new(field, Span::call_site()),
            key: field.to_string(),
            default: None,
            meaning: None,
            unit: None,
        };
        meta.parse_nested_meta(|meta| {
            match word(&meta)?.as_str() {
                "default" => change.default = Some(Default::Value(toml(&meta.value()?.parse()?)?)),
                "unset" => change.default = Some(Default::Unset(meta.value()?.parse()?)),
                "meaning" => change.meaning = Some(meta.value()?.parse()?),
                "unit" => change.unit = Some(meta.value()?.parse()?),
                "name" => change.key = meta.value()?.parse::<LitStr>()?.value(),
                _ => {
                    return Err(
                        meta.error("expected `default`, `unset`, `meaning`, `unit` or `name`")
                    );
                }
            }
            Ok(())
        })?;
        Ok(change)
    }
}

fn word(meta: &ParseNestedMeta<'_>) -> Result<String> {
    Ok(meta.path.require_ident()?.to_string())
}

fn each_meta(
    attributes: &[Attribute],
    name: &str,
    mut take: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident(name))
        .try_for_each(|attribute| attribute.parse_nested_meta(&mut take))
}

/// A literal, or a list of literals, as TOML has it.
fn toml(value: &Expr) -> Result<String> {
    match value {
        Expr::Lit(literal) => Ok(literal.lit.to_token_stream().to_string()),
        Expr::Unary(negative) => Ok(negative.to_token_stream().to_string().replace(' ', "")),
        Expr::Array(list) => {
            let items = list.elems.iter().map(toml).collect::<Result<Vec<_>>>()?;
            Ok(format!("[{}]", items.join(", ")))
        }
        other => Err(Error::new_spanned(
            other,
            "a default is a number, a text, true, false or a list of these",
        )),
    }
}

/// The first paragraph of an item's documentation, on one line.
fn first_paragraph(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let documentation = attribute.meta.require_name_value().ok()?;
        let Expr::Lit(literal) = &documentation.value else {
            return None;
        };
        let syn::Lit::Str(text) = &literal.lit else {
            return None;
        };
        documentation
            .path
            .is_ident("doc")
            .then(|| text.value().trim().to_string())
    });
    lines
        .take_while(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
