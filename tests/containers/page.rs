//! What docs/containers.md tells users to run.

const PAGE: &str = include_str!("../../docs/containers.md");

/// The name of the image on the page.
pub(crate) const IMAGE: &str = "corosync-ipc";

/// A `podman run` command of the page.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Between `podman run --rm` and the image.
    pub(crate) options: Vec<String>,
    /// Behind the image.
    pub(crate) args: Vec<String>,
}

impl Recipe {
    /// The `podman run` commands below a heading.
    #[track_caller]
    pub(crate) fn all_below(heading: &str) -> Vec<Recipe> {
        let recipes: Vec<Recipe> = blocks(heading, "sh")
            .iter()
            .flat_map(|block| {
                let joined = block.replace("\\\n", " ");
                joined.lines().filter_map(Recipe::parse).collect::<Vec<_>>()
            })
            .collect();
        assert!(!recipes.is_empty(), "the page has no `podman run` below {heading:?}");
        recipes
    }

    fn parse(line: &str) -> Option<Recipe> {
        let line = line.strip_prefix("podman run --rm ")?;
        assert!(!line.contains(['\'', '"', '$', '|']), "this needs a shell: {line}");
        let mut words = line.split_whitespace().map(str::to_owned);
        let options = words.by_ref().take_while(|word| word != IMAGE).collect();
        Some(Recipe { options, args: words.collect() })
    }

    /// Whether an option is given, as `--user` or as `--user 1000:1000`.
    pub(crate) fn has(&self, option: &str) -> bool {
        format!("{} ", self.options.join(" ")).contains(&format!("{option} "))
    }

    /// With more options.
    pub(crate) fn with(mut self, options: &str) -> Recipe {
        self.options.extend(options.split(' ').map(str::to_owned));
        self
    }

    /// Without an option and its value.
    #[track_caller]
    pub(crate) fn without(mut self, option: &str) -> Recipe {
        let at = self.options.iter().position(|one| one == option);
        let at = at.unwrap_or_else(|| panic!("no {option} in {self:?}"));
        self.options.drain(at..at + 2);
        self
    }
}

/// The Containerfile of the page.
pub(crate) fn containerfile() -> &'static str {
    match blocks("## A Containerfile", "dockerfile")[..] {
        [only] => only,
        ref others => panic!("the page has {} Containerfiles", others.len()),
    }
}

/// The pods of the page: the one in the host's network, and the one with a network of its own. The
/// page has the end of the second, which differs.
pub(crate) fn pods() -> [String; 2] {
    const DIFFERS: &str = "      volumeMounts:\n";
    let [whole, end] = blocks("### Kubernetes", "yaml")[..] else { panic!("not two pods") };
    let (begin, _) = whole.split_once(DIFFERS).unwrap();
    assert!(begin.contains("  hostNetwork: true\n") && end.contains(DIFFERS), "{whole}\n{end}");
    [whole.to_owned(), begin.replace("  hostNetwork: true\n", "") + end]
}

/// The code blocks of a language in the section that a heading begins.
fn blocks(heading: &str, language: &str) -> Vec<&'static str> {
    let (_, section) = PAGE
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the page has no heading {heading:?}"));
    let end = section.find("\n#").unwrap_or(section.len());
    section[..end]
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}
