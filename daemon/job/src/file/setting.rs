//! The types that a setting may have: each says what its key takes, and how its value is read and
//! written.

use super::fields::{Fields, Read, Setting};
use super::keys::{Kind, Tabled};
use super::write::Write;
use crate::error::JobError;
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;

/// Reads a value whose form serde knows.
pub(crate) fn read_by_serde<T: DeserializeOwned>(
    value: &Value,
    from: &Fields<'_>,
    key: &str,
) -> Result<T, JobError> {
    let read = value.clone().try_into();
    read.map_err(|e| JobError::WrongType {
        place: from.place.clone(),
        key: key.into(),
        expected: e.message().to_string(),
        found: value.to_string(),
    })
}

/// The value as serde has it. Every setting is a string, a number or a list of these, so it always
/// converts.
pub(crate) fn write_by_serde(setting: impl Serialize) -> Option<Value> {
    Value::try_from(setting).ok()
}

/// Makes types settings, in the form that serde has for them.
macro_rules! by_serde {
    ($($type:ty: $kind:expr;)*) => {
        $(impl Setting for $type {
            fn kind() -> Kind {
                $kind
            }

            fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
                read_by_serde(value, from, key)
            }

            fn to_value(&self) -> Option<Value> {
                write_by_serde(self)
            }
        })*
    };
}

by_serde! {
    bool: Kind::Bool;
    String: Kind::Text;
    Vec<String>: Kind::Texts;
    u32: Kind::Integer { min: 0, max: u32::MAX.into() };
    u64: Kind::Integer { min: 0, max: i64::MAX };
    i32: Kind::Integer { min: i32::MIN.into(), max: i32::MAX.into() };
    f64: super::kinds::score();
}

/// Makes enums settings: one of the words that serde has for their variants.
macro_rules! by_words {
    ($($type:ty),* $(,)?) => {
        $(impl $crate::file::Setting for $type {
            fn kind() -> $crate::file::Kind {
                $crate::file::Kind::OneOf($crate::file::setting::words_of::<$type>())
            }

            fn from_value(
                value: &toml::Value,
                from: &$crate::file::Fields<'_>,
                key: &str,
            ) -> Result<Self, $crate::error::JobError> {
                $crate::file::setting::read_by_serde(value, from, key)
            }

            fn to_value(&self) -> Option<toml::Value> {
                $crate::file::setting::write_by_serde(self)
            }
        })*
    };
}
pub(crate) use by_words;

/// The words of an enum's variants, as its `Deserialize` names them.
pub(crate) fn words_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut words: &'static [&'static str] = &[];
    // It is handed no value, and so never succeeds; what it asks for is all that counts.
    let _ = T::deserialize(Words(&mut words));
    words
}

/// A deserializer that notes the variants it is asked for.
struct Words<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Words<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = variants;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("there is no value"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A path, which is absolute once it is read.
impl Setting for PathBuf {
    fn kind() -> Kind {
        Kind::Path
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        let text: String = read_by_serde(value, from, key)?;
        Ok(from.absolute(&text))
    }

    fn to_value(&self) -> Option<Value> {
        write_by_serde(path_text(self))
    }
}

/// Paths, which are absolute once they are read.
impl Setting for Vec<PathBuf> {
    fn kind() -> Kind {
        Kind::Texts
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        let texts: Vec<String> = read_by_serde(value, from, key)?;
        Ok(texts.iter().map(|text| from.absolute(text)).collect())
    }

    fn to_value(&self) -> Option<Value> {
        let texts: Vec<String> = self.iter().map(|path| path_text(path)).collect();
        write_by_serde(texts)
    }
}

/// A path as a file has it.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A key that may stay out.
impl<T: Setting> Setting for Option<T> {
    fn kind() -> Kind {
        T::kind()
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        T::from_value(value, from, key).map(Some)
    }

    fn to_value(&self) -> Option<Value> {
        self.as_ref().and_then(T::to_value)
    }

    fn left_out() -> Option<Self> {
        Some(None)
    }
}

/// A key that is known and not in this release: its field takes [`Kind::Later`].
impl Setting for () {
    fn kind() -> Kind {
        Kind::Later("leave it out")
    }

    fn from_value(_: &Value, _: &Fields<'_>, _: &str) -> Result<Self, JobError> {
        Ok(())
    }

    fn to_value(&self) -> Option<Value> {
        None
    }

    fn left_out() -> Option<Self> {
        Some(())
    }
}

/// A table `[…]`.
impl<T: Tabled + Read + Write> Setting for T {
    fn kind() -> Kind {
        Kind::Table(T::table())
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        match value {
            Value::Table(table) => T::read(&from.below(table, key)),
            _ => Err(from.unsound(format!("`{key}` is not a table"), "write it as one")),
        }
    }

    fn to_value(&self) -> Option<Value> {
        Some(Value::Table(written(self)))
    }
}

/// Tables `[[…]]`.
impl<T: Tabled + Read + Write> Setting for Vec<T> {
    fn kind() -> Kind {
        Kind::Tables(T::table())
    }

    fn from_value(value: &Value, from: &Fields<'_>, _: &str) -> Result<Self, JobError> {
        let tables = value.as_array().into_iter().flatten();
        tables
            .filter_map(Value::as_table)
            .map(|table| T::read(&from.item(table, T::table().path)))
            .collect()
    }

    fn to_value(&self) -> Option<Value> {
        let tables = self.iter().map(|item| Value::Table(written(item)));
        Some(Value::Array(tables.collect()))
    }
}

/// Tables `[….NAME]`.
impl<T: Tabled + Read + Write> Setting for BTreeMap<String, T> {
    fn kind() -> Kind {
        Kind::Named(T::table())
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        let tables = value.as_table().into_iter().flatten();
        tables
            .filter_map(|(name, value)| Some((name, value.as_table()?)))
            .map(|(name, table)| Ok((name.clone(), T::read(&from.named(table, key, name))?)))
            .collect()
    }

    fn to_value(&self) -> Option<Value> {
        let tables = self
            .iter()
            .map(|(name, item)| (name.clone(), Value::Table(written(item))));
        Some(Value::Table(tables.collect()))
    }
}

/// The table that holds a struct's settings.
pub(crate) fn written(settings: &impl Write) -> toml::Table {
    let mut table = toml::Table::new();
    settings.write(&mut table);
    table
}
