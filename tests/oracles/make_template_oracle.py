#!/usr/bin/env python3
"""Makes tests/data/chat-templates.json: templates of the kinds that models carry, and conversations as Jinja renders them.

    python3 -m venv .venv && .venv/bin/pip install jinja2
    .venv/bin/python tests/oracles/make_template_oracle.py tests/data/chat-templates.json

The templates are written here, after the kinds that fine-tuned models have. Jinja runs as Hugging Face's transformers
runs it: `trim_blocks`, `lstrip_blocks`, and `raise_exception`. "omits" are words of a template that tropilla has to say
it leaves out: the rendering differs then.
"""

import json
import pathlib
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

LLAMA3_TURNS = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
CHATML_TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TEMPLATES = {
    "llama3: no system turn": ("llama3", "{{ bos_token }}" + LLAMA3_TURNS),
    "llama3: a default in one literal": (
        "llama3",
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nYou are Kim.<|eot_id|>' }}{% endif %}" + LLAMA3_TURNS,
    ),
    "llama3: a default with quotes, added up": (
        "llama3",
        '{{- bos_token }}\n{%- if messages[0]["role"] != "system" %}\n'
        '    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + "It\'s Kim, the \\"helper\\"." + "<|eot_id|>" }}\n'
        "{%- endif %}\n" + LLAMA3_TURNS,
    ),
    "llama3: a default in a variable": (
        "llama3",
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim %}"
        "{% set rest = messages[1:] %}{% else %}{% set system_message = 'You are Kim.' %}{% set rest = messages %}"
        "{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' + system_message + '<|eot_id|>' }}"
        + LLAMA3_TURNS.replace("in messages", "in rest"),
    ),
    "llama3: dates, tools and no default": (
        "llama3",
        "{{- bos_token }}\n{#- dates #}\n{%- if not date_string is defined %}\n"
        "    {%- if strftime_now is defined %}{%- set date_string = strftime_now(\"%d %b %Y\") %}\n"
        "    {%- else %}\n        {%- set date_string = \"26 Jul 2024\" %}\n    {%- endif %}\n{%- endif %}\n"
        "{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n"
        "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
        "{%- if tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n"
        "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n"
        "{%- if tools is not none and not tools_in_user_message %}\n"
        "    {{- \"You have access to the following functions.\" }}\n"
        "    {%- for t in tools %}\n        {{- t | tojson(indent=4) }}\n    {%- endfor %}\n{%- endif %}\n"
        "{{- system_message }}\n{{- \"<|eot_id|>\" }}\n"
        "{%- for message in messages %}\n"
        "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n"
        "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim"
        " + '<|eot_id|>' }}\n"
        "    {%- elif 'tool_calls' in message %}\n"
        "        {{- raise_exception(\"This model only supports single tool-calls at once!\") }}\n"
        "    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    ),
    "chatml: no system turn": ("chatml", CHATML_TURNS),
    "chatml: a default on the first turn": (
        "chatml",
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are Kim, a helper.<|im_end|>\\n' }}{% endif %}"
        + CHATML_TURNS.removeprefix("{% for m in messages %}"),
    ),
    "chatml: a default behind tools": (
        "chatml",
        "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {{- '# Tools\\n\\nYou may call functions<|im_end|>\\n' }}\n"
        "{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
        "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- else %}\n"
        "        {{- '<|im_start|>system\\nYou are Kim. Aidez-moi, 你好.<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n"
        "{%- for m in messages %}\n    {%- if m.role != 'system' or not loop.first %}\n"
        "        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    ),
    "chatml: a default of text outside of blocks": (
        "chatml",
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Kim.<|im_end|>\n{% endif %}" + CHATML_TURNS,
    ),
    "llama3: words before each question": (
        "llama3",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
        "{% if m['role'] == 'user' %}{{ 'Question: ' }}{% endif %}{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
        "Question:",
    ),
    "chatml: a system message that is always there": (
        "chatml",
        "{{ '<|im_start|>system\\nAnswer in French. ' }}{% if messages[0]['role'] == 'system' %}"
        "{{ messages[0]['content'] }}{% endif %}{{ '<|im_end|>\\n' }}{% for m in messages %}{% if m['role'] != 'system' %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{{ '<|im_start|>assistant\\n' }}",
        "Answer in French.",
    ),
}

CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "Hi")],
    [("user", "Hi there"), ("assistant", "Yes?"), ("user", "What is 2 + 2?")],
]


def fail(sentence):
    raise ValueError(sentence)


def main(path):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = fail
    rows = []
    for name, (kind, jinja, *omits) in TEMPLATES.items():
        compiled = environment.from_string(jinja)
        bos = "<|begin_of_text|>" if kind == "llama3" else "<|im_start|>"
        rendered = []
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            text = compiled.render(messages=messages, bos_token=bos, add_generation_prompt=True)
            rendered.append({"messages": messages, "text": text})
        row = {"name": name, "kind": kind, "template": jinja, "rendered": rendered}
        rows.append(json.dumps(row | ({"omits": omits[0]} if omits else {}), ensure_ascii=False))
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


main(pathlib.Path(sys.argv[1]))
