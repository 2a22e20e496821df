"""The groups of commands. Nothing here imports a command: `--help` of a group must be fast."""

from stormbreak.cli.command import DefaultGroup, Group

batch = Group(
    "batch",
    help="Send a file of prompts to an API. Each row is answered, or its failure is explained.",
    lazy={
        "Commands": {
            "run": ("stormbreak.cli.batch.run", "Send every row of a file; resume after a stop."),
            "estimate": ("stormbreak.cli.batch.estimate", "Estimate the cost and time of a run."),
            "status": ("stormbreak.cli.batch.status", "Show the progress of a run."),
            "set": ("stormbreak.cli.batch.set", "Change the concurrency of an active run."),
            "retry": ("stormbreak.cli.batch.retry", "Send the failed rows again."),
            "export": ("stormbreak.cli.batch.tables:export", "Make a table of rows and answers."),
            "merge": ("stormbreak.cli.batch.tables:merge_shards", "Merge the outputs of shards."),
        },
        "The provider's own batch API": {
            "submit": (
                "stormbreak.cli.batch.remote:submit",
                "Submit rows: half the price, within a day.",
            ),
            "poll": ("stormbreak.cli.batch.remote:poll", "Show the progress of submitted batches."),
            "fetch": ("stormbreak.cli.batch.remote:fetch", "Write the results of batches."),
            "cancel": ("stormbreak.cli.batch.remote:cancel", "Cancel submitted batches."),
        },
    },
    examples=("stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1",),
)
storm = Group(
    "storm",
    help="""Play outages and traffic peaks to a policy or a program.

    `run` and `survey` simulate real engines against a provider model, in virtual time. `fit` makes a scenario from an
    access log. `live` plays a scenario on real sockets to any program.
    """,
    lazy={
        "Commands": {
            "list": ("stormbreak.cli.storm.scenarios:list_", "List the scenarios."),
            "show": ("stormbreak.cli.storm.scenarios:show", "Print a scenario as a file."),
            "run": ("stormbreak.cli.storm.run", "Simulate a scenario under a policy."),
            "survey": ("stormbreak.cli.storm.survey", "Test a policy in random storms."),
            "tune": ("stormbreak.cli.storm.tune", "Search for better numbers for a policy."),
            "fit": ("stormbreak.cli.storm.fit", "Estimate a scenario from an access log."),
            "live": ("stormbreak.cli.storm.live", "Play a scenario to a program, on sockets."),
        }
    },
    examples=("stormbreak storm run incident --duration 300 --compare naive,article",),
)
provider = Group(
    "provider",
    help="Run a local mock provider that speaks the OpenAI API, with configurable faults.",
    lazy={"Commands": {"serve": ("stormbreak.cli.provider", "Serve a scenario on a local port.")}},
    examples=("stormbreak provider serve --scenario incident",),
)
config = Group(
    "config",
    help="Check a policy or settings file, or print all its values.",
    lazy={
        "Commands": {
            "check": ("stormbreak.cli.config:check", "Check a file."),
            "show": ("stormbreak.cli.config:show", "Print every value of a policy."),
        }
    },
    examples=("stormbreak config show batch",),
)
cost = Group(
    "cost",
    help="Compare what providers cost, and report what a batch or a gateway cost.",
    lazy={
        "Commands": {
            "prices": ("stormbreak.cli.cost.prices", "Print the prices of models."),
            "compare": ("stormbreak.cli.cost.compare", "Compare providers on the same traffic."),
            "roi": ("stormbreak.cli.cost.roi", "Calculate what a migration saves."),
            "report": ("stormbreak.cli.cost.report", "Print what a batch or a gateway cost."),
        }
    },
    examples=("stormbreak cost compare --models gpt-4.1,deepseek-v3.2 --tokens 50M",),
)
gateway_key = Group(
    "key",
    help="Make client keys.",
    lazy={"Commands": {"new": ("stormbreak.cli.gateway.init:new", "Make a client key.")}},
    examples=("stormbreak gateway key new app",),
)
gateway = DefaultGroup(
    "gateway",
    help="""Serve the APIs of OpenAI and Anthropic on the targets and pools of a settings file.

    SIGHUP, or a change of FILE, reloads it; SIGTERM shuts down gracefully.
    """,
    default="stormbreak.cli.gateway.serve",
    lazy={
        "Commands": {
            "init": ("stormbreak.cli.gateway.init", "Write a first file from the environment."),
            "key": ("stormbreak.cli.groups:gateway_key", "Make client keys."),
            "convert": ("stormbreak.cli.gateway.convert", "Convert the YAML of LiteLLM's proxy."),
            "rehearse": ("stormbreak.cli.gateway.rehearse", "Play a storm to a gateway."),
        }
    },
    examples=(
        "stormbreak gateway init gateway.toml",
        "stormbreak gateway gateway.toml",
        "stormbreak gateway key new app >> gateway.toml",
    ),
)
fleet = Group(
    "fleet",
    help="Show the limits that processes share through a store. Turn it on in a policy: [fleet].",
    lazy={"Commands": {"status": ("stormbreak.cli.fleet", "Show members and their shares.")}},
    examples=("stormbreak fleet status redis://localhost:6379",),
)
telemetry = Group(
    "telemetry",
    help="Print files for monitoring. Turn telemetry on in Python: stormbreak.telemetry.",
    lazy={"Commands": {"dashboard": ("stormbreak.cli.telemetry", "Print the Grafana dashboard.")}},
    examples=("stormbreak telemetry dashboard > dashboard.json",),
)
