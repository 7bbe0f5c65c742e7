//! All cases, by subject.

use crate::harness::Case;

/// Makes a list of cases from functions, each with the roles it is for.
macro_rules! cases {
    ($($roles:ident: $($name:ident),+ $(,)?;)+) => {
        pub(crate) const CASES: &[crate::harness::Case] = &[
            $($(crate::harness::Case {
                name: stringify!($name),
                run: $name,
                roles: crate::harness::$roles,
            },)+)+
        ];
    };
}

mod process;

pub(crate) const ALL: &[&[Case]] = &[process::CASES];

use cases;
