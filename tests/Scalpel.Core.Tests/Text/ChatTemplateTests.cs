using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Tests.Text;

/// <summary>Templates of well-known families; the expected texts follow from Jinja's rules as transformers sets them.</summary>
public sealed class ChatTemplateTests
{
    static readonly ChatMessage[] Talk = [new("user", "Hi"), new("assistant", "Hello!"), new("user", "Bye")];
    static readonly ChatMessage[] WithSystem = [new("system", "Be brief."), .. Talk];
    static readonly Dictionary<string, string> Marks = new() { ["bos_token"] = "<s>", ["eos_token"] = "</s>" };

    const string Llama2 = """
        {% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}
        """;

    const string Zephyr = """
        {% for message in messages %}
        {% if message['role'] == 'user' %}
        {{ '<|user|>
        ' + message['content'] + eos_token }}
        {% elif message['role'] == 'system' %}
        {{ '<|system|>
        ' + message['content'] + eos_token }}
        {% elif message['role'] == 'assistant' %}
        {{ '<|assistant|>
        '  + message['content'] + eos_token }}
        {% endif %}
        {% if loop.last and add_generation_prompt %}
        {{ '<|assistant|>' }}
        {% endif %}
        {% endfor %}
        """;

    const string Gemma = """
        {{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
        ' + message['content'] | trim + '<end_of_turn>
        ' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
        '}}{% endif %}
        """;

    const string Qwen25 = """
        {%- if tools %}
            {{- '<|im_start|>system\n' }}
            {%- if messages[0]['role'] == 'system' %}
                {{- messages[0]['content'] }}
            {%- else %}
                {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
            {%- endif %}
            {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
            {%- for tool in tools %}
                {{- "\n" }}
                {{- tool | tojson }}
            {%- endfor %}
            {{- "\n</tools><|im_end|>\n" }}
        {%- else %}
            {%- if messages[0]['role'] == 'system' %}
                {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
            {%- else %}
                {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
            {%- endif %}
        {%- endif %}
        {%- for message in messages %}
            {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
                {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
            {%- elif message.role == "assistant" %}
                {{- '<|im_start|>' + message.role }}
                {%- if message.content %}
                    {{- '\n' + message.content }}
                {%- endif %}
                {%- for tool_call in message.tool_calls %}
                    {%- if tool_call.function is defined %}
                        {%- set tool_call = tool_call.function %}
                    {%- endif %}
                    {{- '\n<tool_call>\n{"name": "' }}
                    {{- tool_call.name }}
                    {{- '", "arguments": ' }}
                    {{- tool_call.arguments | tojson }}
                    {{- '}\n</tool_call>' }}
                {%- endfor %}
                {{- '<|im_end|>\n' }}
            {%- elif message.role == "tool" %}
                {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
                    {{- '<|im_start|>user' }}
                {%- endif %}
                {{- '\n<tool_response>\n' }}
                {{- message.content }}
                {{- '\n</tool_response>' }}
                {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
                    {{- '<|im_end|>\n' }}
                {%- endif %}
            {%- endif %}
        {%- endfor %}
        {%- if add_generation_prompt %}
            {{- '<|im_start|>assistant\n' }}
        {%- endif %}
        """;

    const string Llama3 = """
        {% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

        '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

        ' }}{% endif %}
        """;

    const string Phi3 = """
        {% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>
        ' + message['content'] + '<|end|>
        '}}{% elif message['role'] == 'user' %}{{'<|user|>
        ' + message['content'] + '<|end|>
        '}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
        ' + message['content'] + '<|end|>
        '}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
        ' }}{% else %}{{ eos_token }}{% endif %}
        """;

    const string Mistral = """
        {%- if messages[0]["role"] == "system" %}
            {%- set system_message = messages[0]["content"] %}
            {%- set loop_messages = messages[1:] %}
        {%- else %}
            {%- set loop_messages = messages %}
        {%- endif %}
        {%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
        {%- set ns = namespace() %}
        {%- set ns.index = 0 %}
        {%- for message in loop_messages %}
            {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
                {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
                    {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
                {%- endif %}
                {%- set ns.index = ns.index + 1 %}
            {%- endif %}
        {%- endfor %}
        {{- bos_token }}
        {%- for message in loop_messages %}
            {%- if message["role"] == "user" %}
                {%- if loop.last and system_message is defined %}
                    {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
                {%- else %}
                    {{- "[INST] " + message["content"] + "[/INST]" }}
                {%- endif %}
            {%- else %}
                {{- " " + message["content"]|trim + eos_token}}
            {%- endif %}
        {%- endfor %}
        """;

    [Fact]
    public void TheSmallRealModelPutsItsDefaultSystemSentenceFirst()
    {
        ChatTemplate template = Tokenizer.Load(Repository.SmolLM2).ChatTemplate!;
        template.Render((ChatMessage[])[new("user", "Hi")]).ShouldBe(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
        template.Render((ChatMessage[])[new("system", "Be brief."), new("user", "Hi")], new ChatTemplateOptions { AddGenerationPrompt = false }).ShouldBe(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
    }

    [Fact]
    public void FamiliesTemplatesGiveTheirConversations()
    {
        Render(Llama2, WithSystem).ShouldBe("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Bye [/INST]");
        Render(Llama3, Talk).ShouldBe(
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
        Render(Zephyr, WithSystem).ShouldBe("<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n<|user|>\nBye</s>\n<|assistant|>\n");
        Render(Gemma, Talk).ShouldBe("<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
        Render(Phi3, WithSystem).ShouldBe("<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n");
        Render(Mistral, WithSystem).ShouldBe("<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\nBye[/INST]");
    }

    [Fact]
    public void ToolsAndToolCallsAreWrittenAsJson()
    {
        var messages = JsonNode.Parse("""
            [{"role":"user","content":"Weather in Ülm?"},
             {"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"weather","arguments":{"city":"Ülm","days":2,"exact":true}}}]},
             {"role":"tool","content":"rain"},{"role":"tool","content":"sun"}]
            """)!.AsArray();
        var tools = JsonNode.Parse("""[{"type":"function","function":{"name":"weather"}}]""")!.AsArray();
        ChatTemplate.Parse(Qwen25).Render(messages, new ChatTemplateOptions { Tools = tools }).ShouldBe(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            + "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"weather\"}}\n</tools><|im_end|>\n"
            + "<|im_start|>user\nWeather in Ülm?<|im_end|>\n"
            + "<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ülm\", \"days\": 2, \"exact\": true}}\n</tool_call><|im_end|>\n"
            + "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response><|im_end|>\n<|im_start|>assistant\n");
    }

    [Theory]
    [InlineData("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc")]
    [InlineData("a {%- if true -%} \n b {%- endif %} c", "ab c")]
    [InlineData("{% if true +%}\nx{% endif %}", "\nx")]
    [InlineData("  {%+ if true %}x{% endif %}", "  x")]
    [InlineData("{# note #}\nx{#- y -#}  z", "xz")]
    [InlineData("{{ 'a' }}\n{{ 'b' }}\n", "a\nb")]
    [InlineData("{% raw %}{{ x }}{% endraw %}", "{{ x }}")]
    [InlineData("{{ 1 if false }}|{{ undefined_name }}|{{ none }}|{{ true }}|{{ 1.0 }}", "||None|True|1.0")]
    [InlineData("{{ [1, 'a', none, {'k': 2.5}] }}", "[1, 'a', None, {'k': 2.5}]")]
    [InlineData("{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 1 ~ 2 }}", "3 -4 2 3.5 8 12")]
    [InlineData("{{ 'abcdef'[1:4] }} {{ 'abc'[::-1] }} {{ [1,2,3][-1] }} {{ 'abc'[-2:] }}", "bcd cba 3 bc")]
    [InlineData("{{ not 1 > 2 and 'a' in 'cat' and 3 not in [1] }} {{ 1 < 2 < 3 }}", "True True")]
    [InlineData("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}", "a=1, b=2")]
    [InlineData("{% for x in [1,2,3,4] if x is even %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %}", "1:2 2:4 ")]
    [InlineData("{% for x in [1,2,3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% if x == 3 %}{% break %}{% endif %}{% endfor %}", "13")]
    [InlineData("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1")]
    [InlineData("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6")]
    [InlineData("{% macro f(a, b='x') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(2, b='y') }}", "<1x><2y>")]
    [InlineData("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1")]
    [InlineData("{{ {'a': [1, \"é\\n\"], 'b': none} | tojson }}", "{\"a\": [1, \"é\\n\"], \"b\": null}")]
    [InlineData("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}")]
    [InlineData("{{ [{'n': 'x'}, {'n': 'y', 't': 1}] | map(attribute='n') | join('+') }} {{ [{'t': 1}, {}] | selectattr('t', 'defined') | list | length }}", "x+y 1")]
    [InlineData("{{ ' a b '.strip().split(' ')[-1] }} {{ 'x' | default('y') }} {{ z | default('y') }} {{ '' | default('y', true) }}", "b x y y")]
    [InlineData("{{ 'text'.startswith('te') }} {{ 'a,b,c'.split(',', 1) }} {{ '  a  b'.split() }} {{ 'aXb' | replace('X', '-') }}", "True ['a', 'b,c'] ['a', 'b'] a-b")]
    [InlineData("{{ 'x' is string }} {{ {} is mapping }} {{ [] is iterable }} {{ 1 is number }} {{ y is not defined }} {{ none is none }}", "True True True True True True")]
    [InlineData("{{ ('a', 'b')[1] }} {{ 'it''s' }} {{ \"q\" 'r' }} {{ '\\u00e9\\x41' }}", "b its qr éA")]
    [InlineData("{% generation %}x{% endgeneration %}", "x")]
    public void ExpressionsAndWhiteSpaceFollowJinja(string template, string expected) => Render(template, Talk).ShouldBe(expected);

    [Theory]
    [InlineData("a\n{% include 'x' %}", "line 2", "include")]
    [InlineData("{{ x | frobnicate }}", "line 1", "frobnicate")]
    [InlineData("{{ ''.__class__() }}", "line 1", "__class__")]
    [InlineData("{{ open('x') }}", "line 1", "open")]
    [InlineData("\n\n{% for x in [1] %}", "line 3", "endfor")]
    [InlineData("{{ nothing.member }}", "line 1", "nothing")]
    [InlineData("{% for i in range(1000000) %}{% endfor %}", "chat template", "100000")]
    [InlineData("{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "line 1", "1048576")]
    [InlineData("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "line 1", "steps")]
    [InlineData("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1", "deep")]
    [InlineData("{{ raise_exception('no') }}", "refuses", "no")]
    [InlineData("{{ messages[0] + 1 }}", "line 1", "mapping")]
    [InlineData("{% if %}", "line 1", "%}")]
    [InlineData("{{ 'abc }}", "line 1", "string")]
    public void WhatATemplateMustNotDoIsNamedWithItsLine(string template, string first, string second)
    {
        string message = Should.Throw<BadInputException>(() => Render(template, Talk)).Message;
        message.ShouldContain(first);
        message.ShouldContain(second);
    }

    [Fact]
    public void DeepNestingIsRefusedInsteadOfOverflowingTheStack()
    {
        foreach (string template in (string[])["{{ " + new string('(', 10_000), "{{ " + new string('[', 10_000), "{{ " + string.Concat(Enumerable.Repeat("not ", 10_000)) + "1 }}",
            string.Concat(Enumerable.Repeat("{% if 1 %}", 10_000)), "{{ " + string.Concat(Enumerable.Repeat("-", 10_000)) + "1 }}", "{{ a" + string.Concat(Enumerable.Repeat("|trim", 10_000)) + " }}",
            "{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 10_000)) + " }}"])
        {
            Should.Throw<BadInputException>(() => Render(template, Talk));
        }
    }

    [Fact]
    public void TheClockIsSeenOnlyWhenItIsGiven()
    {
        const string Source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        Render(Source, Talk).ShouldBe("26 Jul 2024");
        ChatTemplate.Parse(Source).Render(Talk, new ChatTemplateOptions { Now = new DateTimeOffset(2025, 3, 4, 0, 0, 0, TimeSpan.Zero) }).ShouldBe("04 Mar 2025");
    }

    static string Render(string template, ChatMessage[] messages) => ChatTemplate.Parse(template, Marks).Render(messages);
}
