//! All cases, by subject.

use crate::harness::Case;

/// Makes a list of cases from functions, after the roles they are for.
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

mod escapes;
mod filesystem;
mod identity;
mod lifetime;
mod process;
mod rights;
mod streams;

pub(crate) const ALL: &[&[Case]] = &[
    process::CASES,
    streams::CASES,
    filesystem::CASES,
    rights::CASES,
    identity::CASES,
    escapes::CASES,
    lifetime::CASES,
];
