"""Words that hint at the kind of a task, in several languages; they only feed dense counts."""

from __future__ import annotations

_WORDS: dict[str, str] = {
    "proof": """
        prove proof proves theorem lemma corollary conjecture contradiction derive
        derivation rigorous rigorously infinitely axiom demuestra demuestre demostrar
        teorema beweise beweis beweisen satz démontrer démontrez théorème докажи докажите
        теорема برهن أثبت نظرية सिद्ध प्रमेय
    """,
    "mathematics": """
        integer integers equation equations polynomial polynomials matrix eigenvalue
        eigenvalues integral integrate derivative probability triangle circle angle radius
        sqrt frac prime primes modulo sum product function functions vector vectors graph
        solve compute calculate evaluate determine ecuación integral calcula calcular
        resuelve gleichung berechne löse calculer résoudre équation уравнение вычисли
        вычислите решите معادلة احسب समीकरण
    """,
    "code": """
        python javascript typescript java rust golang kotlin swift sql html css bash regex
        algorithm algorithms implement debug refactor compile compiler function def class
        return import const api json yaml docker kubernetes database query code código
        programa funktion programm fonction код функция программу برنامج
    """,
    "competition": """
        constraints constraint stdin stdout testcase testcases codeforces leetcode olympiad
        aime imo putnam complexity subarray subsequence lexicographically optimal minimize
        maximize optimise optimize dynamic np concurrent concurrency distributed
    """,
    "reasoning": """
        why explain reason reasoning because therefore if then suppose assume assuming given
        conclude deduce infer compare analyze analyse evaluate argue consequence
        consequences implies logic explica porqué warum erkläre pourquoi expliquer почему
        объясни لماذا اشرح क्यों समझाइए
    """,
    "demanding": """
        design derive diagnose architect formalize formalise optimize optimise reconcile critique
        synthesize justify tradeoff tradeoffs trade offs strategy quantify prove
        disprove counterexample formally rigorous asymptotic optimal bounds worst case invariant
        diseña diseñe justifica deduce optimiza entwirf entwerfe entwickle begründe leite herleite
        conçois concevez concevoir justifie justifiez projete projetar justifique спроектируй
        обоснуй выведи صمم برر استنتج حلل डिज़ाइन विश्लेषण
    """,
    "systems": """
        lock concurrent concurrency linearizability linearizable consensus raft paxos shard
        sharding replication replicated region regions latency throughput consistency idempotent
        deadlock race kernel allocator cache eviction crdt transactional isolation serializable
        failover tenant tenants migration downtime compiler scheduler garbage collector memory
        leak leaks threads async distributed fault tolerant tolerance exactly once
        concurrente distribuido verteilte verteiltes nebenläufig distribué réparti распределённый
    """,
    "expert": """
        diagnosis patient patients treatment clinical symptom symptoms disease drug dose
        statute court plaintiff defendant liability contract jurisdiction constitutional
        tort enzyme protein molecule reaction molar quantum thermodynamic voltage velocity
        momentum gene genome equilibrium elasticity fiscal monetary accounting audit
    """,
    "fact": """
        who whom whose when where which name capital quién cuándo dónde wer wann wo qui
        quand où кто когда где من متى أين कौन कब कहाँ
    """,
    "how_many": "many much often far long old cuántos cuánto wieviel combien сколько",
    "summary": """
        summarize summarise summary tldr shorten condense bullet bullets resume resumir
        resumen zusammenfassen zusammenfassung résumer résumé кратко لخص सारांश
    """,
    "rewrite": """
        rewrite rephrase paraphrase proofread grammar spelling formal polite tone reword
        edit reescribe umformulieren reformuler перепиши
    """,
    "translation": """
        translate translation traduce traducir übersetze übersetzen traduire traduis
        переведи переведите ترجم अनुवाद
    """,
    "extraction": """
        extract classify classification label labels sentiment category categories positive
        negative entity entities list table csv column columns format
    """,
    "creative": """
        write story poem poems song lyrics essay haiku character characters novel fiction
        joke roleplay imagine creative slogan tagline blog escribe cuento poema schreibe
        gedicht geschichte écris poème histoire напиши стих اكتب قصة लिखो कहानी
    """,
    "chat": """
        hi hello hey thanks thank thx bye goodbye welcome lol hola gracias adiós hallo danke
        tschüss bonjour bonsoir merci salut привет здравствуйте спасибо مرحبا شكرا नमस्ते धन्यवाद
    """,
    "constraint": """
        must exactly only least most without no not never except unless each every all at
        between ensure avoid should include exclude maximum minimum words sentences
    """,
    "negation": "not except least incorrect false untrue cannot neither nor",
}
CUE_WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split()) for name, words in _WORDS.items()
}
CUE_NAMES: tuple[str, ...] = tuple(CUE_WORDS)

# Chinese, Japanese and Korean: searched as substrings, since words are not set apart by spaces.
CJK_CUES: dict[str, tuple[str, ...]] = {
    "proof": ("证明", "定理", "推导", "證明", "証明", "증명", "정리"),
    "mathematics": (
        "方程",
        "积分",
        "矩阵",
        "概率",
        "计算",
        "求解",
        "整数",
        "方程式",
        "確率",
        "계산",
    ),
    "code": (
        "代码",
        "函数",
        "编程",
        "算法",
        "程序",
        "コード",
        "関数",
        "プログラム",
        "코드",
        "함수",
    ),
    "competition": ("竞赛", "最优", "复杂度", "制約", "최적"),
    "demanding": (
        "设计",
        "推导",
        "权衡",
        "优化",
        "论证",
        "诊断",
        "反例",
        "严格",
        "設計",
        "導出",
        "最適化",
        "厳密",
        "설계",
        "최적화",
    ),
    "systems": (
        "分布式",
        "并发",
        "一致性",
        "高可用",
        "死锁",
        "事务",
        "分散",
        "並行",
        "분산",
        "동시성",
    ),
    "reasoning": ("为什么", "解释", "分析", "推理", "なぜ", "説明", "왜", "설명"),
    "fact": ("谁", "什么时候", "哪里", "首都", "誰", "いつ", "どこ", "누구", "언제", "어디"),
    "how_many": ("多少", "几个", "いくつ", "何人", "몇", "얼마"),
    "summary": ("总结", "概括", "摘要", "要約", "요약"),
    "rewrite": ("改写", "润色", "书き直", "校正", "다듬"),
    "translation": ("翻译", "翻譯", "翻訳", "번역"),
    "creative": ("写一", "故事", "诗", "物語", "小説", "이야기", "시를"),
    "chat": ("你好", "谢谢", "再见", "こんにちは", "ありがとう", "안녕", "감사"),
    "constraint": ("必须", "不要", "至少", "最多", "只能", "必ず", "반드시"),
}
