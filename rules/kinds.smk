# Requires: where a twin is nested or may be, its large phase and what could stand in the place of that; reference logits.
# Makes: bench/kinds.json, these beside each other; kind.json, the kind of the twin where `variants` leaves it open.


def name_of(recipe):
    """Name of the first recipe that is this one."""
    return next(name for name, other in RECIPES.items() if other == recipe)


def kind_label(name):
    """Label of the measurement of a recipe's file, which it shares with the study where it is of that."""
    return name if name in STUDY else f"kind-{name}"


SIBLING_FILES = [name_of(recipe) for recipe in SIBLING_RECIPES]
KIND_CASES = {}
KIND_TABLE = []

if NESTED in CFG.kinds:
    IS_OPEN = len(CFG.kinds) > 1
    REFINED_RECIPE = CFG.kinds[NESTED][1]
    # there is no twin yet where the kind is open
    CONTENDERS = [kind_label(name_of(REFINED_RECIPE)) if IS_OPEN else PHASES[1]]
    CONTENDERS += map(kind_label, SIBLING_FILES)
    KIND_CASES = {
        f"kind-{name}": (quantized(name), None)
        for name in [name_of(REFINED_RECIPE), *SIBLING_FILES]
    }

    rule compare_kinds:
        input:
            rows=expand(rules.measure_quality.output.row, label=CONTENDERS),
            positions=expand(rules.measure_quality.output.positions, label=CONTENDERS),
        output:
            table=results("bench/kinds.json"),
        log:
            main=logs("compare-kinds.log"),
        benchmark:
            benchmarks("compare-kinds")
        conda:
            "../envs/pipeline.yaml"
        resources:
            mem_mb=1000,
            disk_mb=10,
            runtime=10,
        params:
            titles=[recipe.title for recipe in (REFINED_RECIPE, *SIBLING_RECIPES)],
            margin=CFG.nested_margin,
        message:
            "Compare the large phase of a nested twin with what siblings would have"
        script:
            "../scripts/compare_kinds.py"

    KIND_TABLE = rules.compare_kinds.output.table
    if IS_OPEN:

        checkpoint choose_kind:
            input:
                table=rules.compare_kinds.output.table,
            output:
                choice=results("kind.json"),
            log:
                main=logs("choose-kind.log"),
            benchmark:
                benchmarks("choose-kind")
            conda:
                "../envs/pipeline.yaml"
            resources:
                mem_mb=1000,
                disk_mb=10,
                runtime=10,
            message:
                "Choose the kind of the twin"
            script:
                "../scripts/choose_kind.py"

        KIND_TABLE = rules.choose_kind.output.choice
