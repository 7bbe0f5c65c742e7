//! Instructions on the command line (`import --change`), applied to the configuration of an image
//! that is not built.

use cache::oci::{ContainerConfig, Platform};
use parser::InstructionKind;
use solver::llb::Definition;

use super::lower::{LowerError, lower};
use super::plan::{Plan, ResolvedImages, Settings};

/// The configuration that a Dockerfile of `FROM scratch` and these instructions has.
pub(crate) fn configuration_of(
    changes: &[String],
    platform: &Platform,
) -> Result<ContainerConfig, String> {
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let parsed = parser::parse(text.as_bytes());
    if let Some(error) = parsed.diagnostics.iter().find(|diagnostic| diagnostic.is_error()) {
        return Err(error.to_string());
    }
    let allowed = |kind: &InstructionKind| {
        !matches!(
            kind,
            InstructionKind::Run(_)
                | InstructionKind::Copy(_)
                | InstructionKind::Add(_)
                | InstructionKind::Arg(_)
        )
    };
    let instructions = parsed.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    if let Some(refused) = instructions.clone().find(|instruction| !allowed(&instruction.kind)) {
        return Err(format!("{} cannot change a configuration", refused.kind.keyword()));
    }
    if parsed.dockerfile.stages.len() != 1 {
        return Err("FROM cannot change a configuration".into());
    }
    let sets_path = instructions.clone().any(|instruction| match &instruction.kind {
        InstructionKind::Env(env) => env.pairs.iter().any(|pair| pair.key.value == "PATH"),
        _ => false,
    });
    let settings = Settings::new("--change", platform);
    let first = |faults: Vec<super::Fault>| {
        faults.into_iter().next().map(|fault| fault.message).unwrap_or_default()
    };
    let plan = Plan::new(&parsed.dockerfile, &settings).map_err(first)?;
    let lowered =
        lower(&parsed.dockerfile, &plan, &settings, &ResolvedImages::new(), &mut Definition::new());
    let mut config = match lowered {
        Ok(lowered) => lowered.config.config,
        Err(LowerError::Faults(faults)) => return Err(first(faults)),
        Err(LowerError::NeedsImages(_)) => return Err("images cannot be named here".into()),
    };
    // A build from scratch gets a PATH; an import has what it was given.
    if !sets_path {
        config.env =
            config.env.map(|env| env.into_iter().filter(|e| !e.starts_with("PATH=")).collect());
        config.env = config.env.filter(|env: &Vec<String>| !env.is_empty());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Result<ContainerConfig, String> {
        configuration_of(&[text.to_owned()], &Platform::host())
    }

    #[test]
    fn instructions_of_the_configuration_apply() {
        let config = change("CMD [\"sh\"]").unwrap();
        assert_eq!(config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.env, None);
        assert_eq!(change("ENV A=1").unwrap().env, Some(vec!["A=1".to_owned()]));
    }

    #[test]
    fn instructions_that_touch_files_are_refused() {
        assert!(change("RUN true").unwrap_err().contains("RUN"));
        assert!(change("FROM x").is_err());
    }
}
