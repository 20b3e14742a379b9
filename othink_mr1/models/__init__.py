"""Vision-language models: loading them, their processors, and the demo's tiny one."""
