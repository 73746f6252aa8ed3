# Short names for .ci/run, which holds the steps. `just --list` lists these, `just steps` the steps.

# Runs steps of CI by name, or all that a change must pass.
ci *steps:
    .ci/run {{steps}}

# Lists the steps.
steps:
    @.ci/run --list

# Checks what takes no more than minutes: run it before each commit.
check: (ci "fmt clippy core doc rules")

# Runs every step, the long ones too.
full:
    .ci/full
