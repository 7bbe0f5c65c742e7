//! The table of build checks: names, descriptions and pages as BuildKit has them.

/// A build check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LintRule {
    /// BuildKit's name for it.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub description: &'static str,
    /// Its page, where it has one.
    pub url: Option<&'static str>,
    /// Whether it runs only when asked for by `experimental=`.
    pub experimental: bool,
}

/// The rule called `name`.
pub fn lint_rule(name: &str) -> Option<&'static LintRule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// All build checks.
pub const RULES: &[LintRule] = &[
    LintRule {
        name: "StageNameCasing",
        description: "Stage names should be lowercase",
        url: Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"),
        experimental: false,
    },
    LintRule {
        name: "FromAsCasing",
        description: "The 'as' keyword should match the case of the 'from' keyword",
        url: Some("https://docs.docker.com/go/dockerfile/rule/from-as-casing/"),
        experimental: false,
    },
    LintRule {
        name: "NoEmptyContinuation",
        description: "Empty continuation lines will become errors in a future release",
        url: Some("https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/"),
        experimental: false,
    },
    LintRule {
        name: "ConsistentInstructionCasing",
        description: "All commands within the Dockerfile should use the same casing (either \
                      upper or lower)",
        url: Some("https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/"),
        experimental: false,
    },
    LintRule {
        name: "DuplicateStageName",
        description: "Stage names should be unique",
        url: Some("https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/"),
        experimental: false,
    },
    LintRule {
        name: "ReservedStageName",
        description: "Reserved words should not be used as stage names",
        url: Some("https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/"),
        experimental: false,
    },
    LintRule {
        name: "JSONArgsRecommended",
        description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended \
                      behavior related to OS signals",
        url: Some("https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"),
        experimental: false,
    },
    LintRule {
        name: "MaintainerDeprecated",
        description: "The MAINTAINER instruction is deprecated, use a label instead to \
                      define an image author",
        url: Some("https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/"),
        experimental: false,
    },
    LintRule {
        name: "UndefinedArgInFrom",
        description: "FROM command must use declared ARGs",
        url: Some("https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/"),
        experimental: false,
    },
    LintRule {
        name: "WorkdirRelativePath",
        description: "Relative workdir without an absolute workdir declared within the build \
                      can have unexpected results if the base image changes",
        url: Some("https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"),
        experimental: false,
    },
    LintRule {
        name: "UndefinedVar",
        description: "Variables should be defined before their use",
        url: Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/"),
        experimental: false,
    },
    LintRule {
        name: "MultipleInstructionsDisallowed",
        description: "Multiple instructions of the same type should not be used in the same \
                      stage",
        url: Some("https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/"),
        experimental: false,
    },
    LintRule {
        name: "LegacyKeyValueFormat",
        description: "Legacy key/value format with whitespace separator should not be used",
        url: Some("https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/"),
        experimental: false,
    },
    LintRule {
        name: "InvalidBaseImagePlatform",
        description: "Base image platform does not match expected target platform",
        url: None,
        experimental: false,
    },
    LintRule {
        name: "RedundantTargetPlatform",
        description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as \
                      this is the default behavior",
        url: Some("https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/"),
        experimental: false,
    },
    LintRule {
        name: "SecretsUsedInArgOrEnv",
        description: "Sensitive data should not be used in the ARG or ENV commands",
        url: Some("https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/"),
        experimental: false,
    },
    LintRule {
        name: "InvalidDefaultArgInFrom",
        description: "Default value for global ARG results in an empty or invalid base image \
                      name",
        url: Some("https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/"),
        experimental: false,
    },
    LintRule {
        name: "FromPlatformFlagConstDisallowed",
        description: "FROM --platform flag should not use a constant value",
        url: Some(
            "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
        ),
        experimental: false,
    },
    LintRule {
        name: "CopyIgnoredFile",
        description: "Attempting to Copy file that is excluded by .dockerignore",
        url: Some("https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/"),
        experimental: false,
    },
    LintRule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# \
                      <arg/stage name> <description>`. If this is not intended to be a \
                      description comment, add an empty line or comment between the \
                      instruction and the comment.",
        url: Some("https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/"),
        experimental: true,
    },
    LintRule {
        name: "ExposeProtoCasing",
        description: "Protocol in EXPOSE instruction should be lowercase",
        url: Some("https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/"),
        experimental: false,
    },
    LintRule {
        name: "ExposeInvalidFormat",
        description: "IP address and host-port mapping should not be used in EXPOSE \
                      instruction. This will become an error in a future release",
        url: Some("https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/"),
        experimental: false,
    },
];
