# Requires: the engine that measures with Vulkan, Mesa's lavapipe.
# Makes: resources/engine/vulkan/tests.json, the report of the backend's tests on a device that is the CPU.
from phase_twin.lavapipe import on_lavapipe
from test_vulkan import TYPES as VULKAN_TYPES

TOOLS["test_vulkan"] = on_lavapipe


rule test_vulkan:
    input:
        operations=engine("test-backend-ops", "vulkan"),
        facts=engine_facts("vulkan"),
    output:
        report=resources("engine/vulkan/tests.json"),
    log:
        main="logs/engine/test-vulkan.log",
        tool="logs/engine/test-vulkan-tool.log",
    benchmark:
        "benchmarks/engine/test-vulkan.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        disk_mb=10,
        runtime=30,
    params:
        types=VULKAN_TYPES,
    message:
        "Compare the Vulkan backend with the CPU backend: the types that are ours"
    script:
        "../scripts/test_vulkan.py"
