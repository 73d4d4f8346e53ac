//! How the values of settings are written, shown and checked.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::value::Error as NamesError;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use super::types::{
    Background, Channels, OnCollapse, OptIn, Policies, Policy, Precision, Size, Switch,
};
use crate::data::Fit;
use crate::device::DeviceChoice;
use crate::rng::Latent;

/// How a value is written, as far as a command line has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`; without a value, naming the setting means `true`.
    Bool,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// Two numbers with a comma between them. The first may begin with a minus sign.
    Pair,
    /// Texts with commas between them.
    List,
    /// Some of these names with commas between them, `all` or `none`; without a value, naming the setting means
    /// all.
    Choices(&'static [&'static str]),
    /// One number or text.
    One,
}

/// A type that a setting's value can have.
pub(super) trait Value: Serialize {
    /// How it is written.
    fn form() -> Form {
        Form::One
    }

    /// The value of TOML that `text` stands for. The text does not tell which type TOML has it in,
    /// so the setting's type decides.
    fn parse(text: &str) -> Result<toml::Value, String>;

    /// Whether there is a value at all.
    fn is_given(&self) -> bool {
        true
    }
}

/// A type that a setting can have in `TrainConfig`: that of its value, or an `Option` of it.
pub(super) trait Field {
    /// The type of the value.
    type Value: Value;

    /// The value, if there is one.
    fn given(&self) -> Option<&Self::Value>;

    /// Whether TOML lacks the key.
    fn is_absent(&self) -> bool {
        self.given().is_none()
    }

    /// Whether the setting may be without a value: then `none` takes the value back that a file gave it.
    fn may_have_none() -> bool {
        false
    }

    /// The value of TOML that `text` stands for.
    fn from_text(text: &str) -> Result<toml::Value, String> {
        Self::Value::parse(text)
    }
}

/// What takes back the value of a setting that may have none.
pub(super) const NONE: &str = "none";

impl<T: Value> Field for T {
    type Value = T;

    fn given(&self) -> Option<&T> {
        self.is_given().then_some(self)
    }
}

impl<T: Value> Field for Option<T> {
    type Value = T;

    fn given(&self) -> Option<&T> {
        self.as_ref()
    }

    fn may_have_none() -> bool {
        true
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        if text == NONE { Ok(NONE.into()) } else { T::parse(text) }
    }
}

macro_rules! whole_numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<toml::Value, String> {
                whole_number(text).map(in_toml)
            }
        }
    )+};
}
whole_numbers!(u64, usize, i64);

/// The whole number that `text` is.
///
/// # Errors
/// If it is none, or larger than 64 bits hold.
pub fn whole_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| match text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty() {
        true => format!("expected a whole number of at most {}", u64::MAX),
        false => "expected a whole number, 0 or more".to_owned(),
    })
}

/// A whole number as a value of TOML. Integers of TOML have 64 bits and a sign, so a larger one is a text.
pub fn in_toml(number: u64) -> toml::Value {
    i64::try_from(number).map_or_else(|_| number.to_string().into(), toml::Value::from)
}

/// Reads and writes a seed as [`in_toml`] has it.
pub(super) mod seed {
    use serde::de::Error as _;
    use serde::{Deserializer, Serialize, Serializer};

    use super::{Deserialize, in_toml, whole_number};

    #[allow(clippy::trivially_copy_pass_by_ref)] // Serde passes a reference.
    pub(in crate::settings) fn serialize<S: Serializer>(
        seed: &u64,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        in_toml(*seed).serialize(to)
    }

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Number(number) => Ok(number),
            Written::Text(text) => whole_number(&text)
                .map_err(|problem| D::Error::custom(format!("{problem}, found \"{text}\""))),
        }
    }
}

impl Value for f64 {
    fn parse(text: &str) -> Result<toml::Value, String> {
        let number: f64 = text.parse().map_err(|_| "expected a number")?;
        Ok(number.into())
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<toml::Value, String> {
        Ok(text.into())
    }
}

impl Value for OptIn {
    fn form() -> Form {
        Form::Bool
    }

    fn parse(text: &str) -> Result<toml::Value, String> {
        bool::parse(text)
    }

    fn is_given(&self) -> bool {
        self.is_on()
    }
}

impl Value for bool {
    fn form() -> Form {
        Form::Bool
    }

    fn parse(text: &str) -> Result<toml::Value, String> {
        let value: Self = text.parse().map_err(|_| "expected true or false")?;
        Ok(value.into())
    }
}

impl Value for [f64; 2] {
    fn form() -> Form {
        Form::Pair
    }

    fn parse(text: &str) -> Result<toml::Value, String> {
        let numbers = text
            .split_once(',')
            .and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
        let [low, high]: Self = numbers.ok_or("expected two numbers, such as 0,1")?;
        Ok(vec![low, high].into())
    }
}

impl Value for Vec<usize> {
    fn parse(text: &str) -> Result<toml::Value, String> {
        let numbers = text.split(',').map(|number| number.trim().parse::<u32>());
        let numbers = numbers.collect::<Result<Vec<_>, _>>();
        numbers.map(Into::into).map_err(|_| "expected whole numbers, such as 28,28".to_owned())
    }
}

impl Value for Vec<String> {
    fn form() -> Form {
        Form::List
    }

    fn parse(text: &str) -> Result<toml::Value, String> {
        Ok(text.split(',').collect::<Vec<_>>().into())
    }

    fn is_given(&self) -> bool {
        !self.is_empty()
    }
}

impl Value for Policies {
    fn form() -> Form {
        Form::Choices(names_of::<Policy>())
    }

    fn parse(text: &str) -> Result<toml::Value, String> {
        let all = names_of::<Policy>();
        let names = match text {
            "all" => all.to_vec(),
            "none" => Vec::new(),
            names => names.split(',').collect(),
        };
        match names.iter().find(|name| !all.contains(name)) {
            Some(name) => {
                let expected = format!("some of {}, or all, or none", all.join(", "));
                Err(format!("expected {expected}, found `{name}`"))
            }
            None => Ok(names.into()),
        }
    }

    fn is_given(&self) -> bool {
        !self.is_empty()
    }
}

macro_rules! choices {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn form() -> Form {
                Form::Choice(names_of::<Self>())
            }

            fn parse(text: &str) -> Result<toml::Value, String> {
                let names = names_of::<Self>();
                if !names.contains(&text) {
                    return Err(format!("expected one of {}", names.join(", ")));
                }
                Ok(text.into())
            }
        }
    )+};
}
choices!(Channels, Fit, Latent, OnCollapse, Precision, Switch);

macro_rules! texts {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<toml::Value, String> {
                let value = Self::from_str(text)?;
                toml::Value::try_from(value).map_err(|e| e.to_string())
            }
        }
    )+};
}
texts!(Background, DeviceChoice, Size);

/// The names that serde knows the variants of an enum by, so that they are written only there.
fn names_of<T: DeserializeOwned>() -> &'static [&'static str] {
    /// Pretends to be the text of an enum, and keeps the names that serde then expects.
    struct Ask<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = NamesError;

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, NamesError> {
            *self.0 = variants;
            Err(NamesError::custom("only the names were asked for"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NamesError> {
            Err(NamesError::custom("this is no enum"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    let mut names: &[&str] = &[];
    // There is no value to be had, so this is always an error.
    let _ = T::deserialize(Ask(&mut names)).is_err();
    names
}

/// A value as a flag takes it.
pub fn shown(value: &impl Serialize) -> String {
    fn plain(value: &toml::Value) -> String {
        match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        }
    }
    toml::Value::try_from(value).map_or_else(|e| e.to_string(), |value| plain(&value))
}

/// Which values of its type a setting may have.
pub(super) struct Rule<T> {
    /// The values that are allowed, in words.
    pub(super) text: String,
    /// Finds out whether a value is one of them.
    pub(super) check: Check<T>,
}

/// Says what is wrong with a value, if anything is.
type Check<T> = Box<dyn Fn(&T) -> Result<(), String>>;

/// Whole numbers of a range.
pub(super) fn whole<T>(range: RangeInclusive<i64>) -> Rule<T>
where
    T: Copy + Display + TryInto<i64>,
{
    let text = format!("{} to {}", range.start(), range.end());
    let expected = format!("expected {text}");
    Rule {
        text,
        check: Box::new(move |&value| match value.try_into() {
            Ok(number) if range.contains(&number) => Ok(()),
            _ => Err(format!("{expected}, found {value}")),
        }),
    }
}

/// Values for which `holds` is true; `text` says which those are.
pub(super) fn meets<T: Value + 'static>(text: &'static str, holds: fn(&T) -> bool) -> Rule<T> {
    checked(text, move |value| {
        let problem = || format!("expected {text}, found {}", shown(value));
        holds(value).then_some(()).ok_or_else(problem)
    })
}

/// Values in which `check` finds no problem; `text` says which those are.
pub(super) fn checked<T>(
    text: impl Into<String>,
    check: impl Fn(&T) -> Result<(), String> + 'static,
) -> Rule<T> {
    Rule { text: text.into(), check: Box::new(check) }
}

/// Every value that the type reads; `text` says which those are.
pub(super) fn any<T>(text: &'static str) -> Rule<T> {
    checked(text, |_| Ok(()))
}

/// Every one of the type's names.
pub(super) fn any_name<T: Value>() -> Rule<T> {
    let text = match T::form() {
        Form::Choice(names) => names.join(", "),
        Form::Bool => "true, false".to_owned(),
        _ => String::new(),
    };
    checked(text, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_choices_are_those_of_toml() {
        assert_eq!(names_of::<Precision>(), Precision::ALL.map(Precision::name));
        assert_eq!(names_of::<Channels>(), ["auto", "1", "3"]);
        assert_eq!(names_of::<f64>(), [] as [&str; 0]);
    }

    #[test]
    fn text_becomes_the_value_that_toml_reads() {
        let value = |text: &str| text.parse::<toml::Table>().unwrap()["x"].clone();
        assert_eq!(<u64 as Value>::parse("7"), Ok(value("x = 7")));
        assert_eq!(
            <u64 as Value>::parse("9223372036854775807"),
            Ok(value("x = 9223372036854775807"))
        );
        assert_eq!(
            <u64 as Value>::parse("9223372036854775808"),
            Ok(value("x = '9223372036854775808'"))
        );
        assert_eq!(<f64 as Value>::parse("1"), Ok(value("x = 1.0")));
        assert_eq!(<bool as Value>::parse("true"), Ok(value("x = true")));
        assert_eq!(<String as Value>::parse("7"), Ok(value("x = '7'")));
        assert_eq!(Channels::parse("3"), Ok(value("x = '3'")));
        assert_eq!(<[f64; 2]>::parse("-1, 1"), Ok(value("x = [-1.0, 1.0]")));
        assert_eq!(Vec::<String>::parse("3,a b"), Ok(value("x = ['3', 'a b']")));
        assert_eq!(Policies::parse("cutout,color"), Ok(value("x = ['cutout', 'color']")));
        assert_eq!(Policies::parse("all"), Ok(value("x = ['color', 'translation', 'cutout']")));
        assert_eq!(Policies::parse("none"), Ok(value("x = []")));
        assert_eq!(<Size as Value>::parse("32"), Ok(value("x = 32")));
        assert_eq!(<Size as Value>::parse("80x48"), Ok(value("x = '80x48'")));
        assert_eq!(<Size as Value>::parse("auto"), Ok(value("x = 'auto'")));
        assert_eq!(<Background as Value>::parse("#ffffff"), Ok(value("x = 'white'")));
        for (wrong, told) in [
            (<u64 as Value>::parse("-3"), "expected a whole number, 0 or more"),
            (<u64 as Value>::parse("18446744073709551616"), "at most 18446744073709551615"),
            (<f64 as Value>::parse("x"), "expected a number"),
            (<[f64; 2]>::parse("5"), "expected two numbers, such as 0,1"),
            (Channels::parse("2"), "expected one of auto, 1, 3"),
            (
                Policies::parse("color,all"),
                "some of color, translation, cutout, or all, or none, found `all`",
            ),
            (Policies::parse(""), "or none, found ``"),
            (<DeviceChoice as Value>::parse("gpu"), "cuda:N or mps, found `gpu`"),
        ] {
            assert!(wrong.clone().unwrap_err().contains(told), "{wrong:?}");
        }
    }

    #[test]
    fn values_are_shown_as_flags_take_them() {
        assert_eq!(shown(&5.0), "5");
        assert_eq!(shown(&2e-4), "0.0002");
        assert_eq!(shown(&f64::NAN), "NaN");
        assert_eq!(shown(&[1.0, -0.5]), "1,-0.5");
        assert_eq!(shown(&Channels::Gray), "1");
        assert_eq!(shown(&"80x48".parse::<Size>().unwrap()), "80x48");
    }
}
