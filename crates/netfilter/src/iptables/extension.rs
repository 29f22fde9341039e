//! The table of extensions that matches and targets have in common.

use super::name::Family;
use super::syntax::segment::Segment;
use super::syntax::{Options, Parsed};

/// A row of the table: one modelled extension.
pub(crate) struct Row<T: 'static> {
    pub(crate) names: &'static [&'static str],
    pub(crate) options: Options,
    /// `None` if options or values go beyond the model.
    pub(crate) parse: fn(Family, &Segment<'_>) -> Parsed<Option<T>>,
    #[cfg(test)]
    pub(crate) examples: &'static [&'static str],
}

impl<T> Row<T> {
    /// Find the extension with a name.
    pub(crate) fn find(rows: &'static [Self], name: &str) -> Option<&'static Self> {
        rows.iter().find(|row| row.names.contains(&name))
    }
}

/// Declare the table `ROWS` of an enum's variants and their modules, and `write`, which appends a value as
/// `iptables-save` prints it. A second module of a variant has the same type and writer.
macro_rules! extensions {
    (
        $kind:ident, $flag:literal, |$out:ident| { $($simple:pat => $text:expr,)* }
        $($variant:ident => $module:ident $(| $alias:ident)*,)*
    ) => {
        /// The modelled extensions.
        pub(crate) const ROWS: &[Row<$kind>] = &[$(
            extensions!(@row $kind $variant $module),
            $(extensions!(@row $kind $variant $alias),)*
        )*];

        /// Append the text as `iptables-save` prints it.
        pub(crate) fn write($out: &mut String, found: &$kind) {
            match found {
                $($simple => $text,)*
                $($kind::$variant(found) => $module::write($out, found),)*
                $kind::Unknown(extension) => {
                    $out.push_str($flag);
                    raw_word($out, &extension.name);
                    words($out, &extension.words);
                }
            }
        }
    };
    (@row $kind:ident $variant:ident $module:ident) => {
        Row {
            names: $module::NAMES,
            options: $module::OPTIONS,
            parse: |family, segment| {
                let found = $module::parse(family, segment)?;
                Ok(found.map(|found| $kind::$variant(found.into())))
            },
            #[cfg(test)]
            examples: $module::EXAMPLES,
        }
    };
}
pub(crate) use extensions;
