"""Fit the token estimate of router.predict.shape to real tokenizers, and measure its error.

    python benchmarks/token_estimate.py [--outcomes DIR] [--seed N]

Target: the mean of cl100k_base and o200k_base, offline from the files that litellm bundles. Texts:
recorded prompts and answers, this project's sources, and the sentences below in other scripts.
Half of the texts fit, the other half measure. Prints the coefficients to copy and the errors.
"""

from __future__ import annotations

import argparse
import os
import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import nnls
from stamp import ROOT

from router.predict import shape
from router.predict.text import BYTE_TO_CLASS, CLASSES, utf8

_SENTENCES = {
    "zh": [
        "请用简单的语言解释为什么天空是蓝色的，并举两个日常生活中的例子。",
        "我想给客户写一封邮件，说明发货时间推迟了三天，请保持礼貌。",
        "证明任意两个连续整数的乘积是偶数，并写出每一步的理由。",
        "这段代码在多线程环境下会出现什么问题？应该怎样修改？",
    ],
    "ja": [
        "来週の会議の議題を三つにまとめて、短い案内文を書いてください。",
        "この関数がなぜ無限ループになるのか、初心者にも分かるように説明してください。",
        "京都で雨の日に楽しめる場所をいくつか教えてもらえますか。",
        "次の文章をもう少し丁寧な表現に書き直してください。",
    ],
    "ko": [
        "내일 발표에 쓸 자료를 세 문장으로 요약해 주세요.",
        "이 오류 메시지가 무슨 뜻인지 쉽게 설명해 줄 수 있나요?",
        "두 자연수의 최대공약수를 구하는 방법을 단계별로 알려 주세요.",
        "주말에 아이들과 함께 갈 만한 공원을 추천해 주세요.",
    ],
    "ar": [
        "اكتب رسالة قصيرة إلى المدير تطلب فيها إجازة لمدة يومين.",
        "ما الفرق بين الطاقة المتجددة والطاقة غير المتجددة مع أمثلة؟",
        "لخص هذا النص في ثلاث نقاط واضحة ثم اقترح عنوانا مناسبا.",
        "كيف يمكنني تحسين سرعة تحميل صفحات الموقع على الهاتف؟",
    ],
    "he": [
        "כתוב לי מכתב קצר לבעל הבית על נזילה במטבח.",
        "הסבר בבקשה מה ההבדל בין מחלה ויראלית לחיידקית.",
        "איך אפשר לתכנן טיול של שלושה ימים בצפון?",
        "תרגם את המשפט הבא לאנגלית ושמור על הסגנון.",
    ],
    "hi": [
        "कृपया इस अनुच्छेद का सारांश दो वाक्यों में लिखिए।",
        "भारत में मानसून कब शुरू होता है और इसका खेती पर क्या असर पड़ता है?",
        "मुझे एक सरल उदाहरण देकर ब्याज की गणना समझाइए।",
        "इस प्रोग्राम में गलती कहाँ है और इसे कैसे ठीक करें?",
    ],
    "th": [
        "ช่วยเขียนอีเมลสั้น ๆ ถึงลูกค้าเพื่อแจ้งเลื่อนการประชุม",
        "อธิบายว่าทำไมท้องฟ้าจึงเป็นสีฟ้าให้เด็กเข้าใจง่าย",
        "สรุปข้อความนี้เป็นสามข้อและเสนอชื่อเรื่องที่เหมาะสม",
        "วิธีคำนวณภาษีเงินได้สำหรับพนักงานใหม่มีอะไรบ้าง",
    ],
    "ru": [
        "Объясните простыми словами, почему лёд плавает на поверхности воды.",
        "Напишите вежливое письмо клиенту о переносе встречи на следующую неделю.",
        "Докажите, что сумма двух нечётных чисел всегда чётна.",
        "Какие книги вы посоветуете прочитать начинающему программисту?",
    ],
    "el": [
        "Γράψε ένα σύντομο μήνυμα για να ευχαριστήσω τους συναδέλφους μου.",
        "Ποια είναι η διαφορά ανάμεσα στον καιρό και το κλίμα;",
        "Εξήγησε βήμα προς βήμα πώς λύνεται αυτή η εξίσωση.",
        "Πρότεινε τρία μέρη για μια εκδρομή κοντά στη θάλασσα.",
    ],
    "vi": [
        "Hãy viết một đoạn văn ngắn giới thiệu món ăn truyền thống của quê bạn.",
        "Giải thích vì sao nước biển mặn và cho hai ví dụ dễ hiểu.",
        "Làm thế nào để sắp xếp danh sách này theo thứ tự giảm dần?",
        "Tóm tắt nội dung cuộc họp hôm nay trong ba câu.",
    ],
    "de": [
        "Schreibe eine freundliche Absage auf eine Einladung zum Geburtstag.",
        "Erkläre mir den Unterschied zwischen Umsatz und Gewinn an einem Beispiel.",
        "Warum läuft diese Schleife für größere Eingaben so langsam?",
        "Fasse die wichtigsten Änderungen für übermorgen kurz zusammen.",
    ],
    "es": [
        "Escribe una invitación breve para la reunión de vecinos del próximo jueves.",
        "¿Cuál es la diferencia entre un préstamo a interés fijo y uno variable?",
        "Explícame paso a paso cómo se resuelve esta ecuación de segundo grado.",
        "¿Qué puedo cocinar hoy con arroz, tomate y un poco de pollo?",
    ],
    "fr": [
        "Rédige un court message pour remercier l'équipe après le déménagement.",
        "Pourquoi le ciel est-il bleu pendant la journée et rouge le soir ?",
        "Peux-tu améliorer le style de cette lettre sans changer le sens ?",
        "Explique à un débutant ce que fait cette fonction récursive.",
    ],
    "emoji": [
        "Great job 🎉🎉 see you at 8 🍕🙂",
        "🚀 launch today! 👍🏽👩‍💻",
        "🌧️☔ bring boots 🥾",
        "❤️ 😂 🙏",
    ],
}


def texts(folder: Path, rng: random.Random) -> dict[str, list[str]]:
    """Return kinds of text; in other scripts each text is several sentences, as prompts are."""
    found = {}
    for source in ("arena_bench_v1", "zeroeval", "mmlu_pro_a"):
        rows = pq.read_table(folder / f"{source}.parquet", columns=["prompt", "response"])
        picked = rng.sample(rows.to_pylist(), 400)
        found[f"{source} prompts"] = [row["prompt"] for row in picked]
        found[f"{source} answers"] = [row["response"] for row in picked if row["response"]]
    code = [file.read_text() for file in sorted(ROOT.glob("router/**/*.py"))]
    found["python"] = [text[i : i + 1500] for text in code for i in range(0, len(text), 1500)]
    for name, sentences in _SENTENCES.items():
        found[name] = [" ".join(rng.choices(sentences, k=3)) for _ in range(60)]
    return found


def row_of(text: str) -> np.ndarray:
    encoded = utf8(text)
    counts = np.bincount(np.frombuffer(encoded, dtype=np.uint8), minlength=256)
    return np.append(counts @ BYTE_TO_CLASS, shape.count_words(encoded))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outcomes", type=Path, default=ROOT / "../shared/outcomes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    origin = find_spec("litellm").origin
    bundled = Path(origin).parent / "litellm_core_utils/tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(bundled))
    import tiktoken

    encodings = [tiktoken.get_encoding(name) for name in ("cl100k_base", "o200k_base")]
    rng = random.Random(options.seed)
    kinds, rows, counts = [], [], []
    for kind, some in texts(options.outcomes, rng).items():
        for text in filter(None, some):
            kinds.append(kind)
            rows.append(row_of(text))
            counts.append(np.mean([len(e.encode(text, disallowed_special=())) for e in encodings]))
    kind, x, y = np.array(kinds), np.array(rows), np.array(counts)
    fitted = np.array([rng.random() < 0.5 for _ in y])
    # Relative error counts, and each kind of text counts the same.
    weight = np.array([1 / np.sqrt((kind == k).sum()) for k in kind]) / y
    coefficients, _ = nnls(x[fitted] * weight[fitted, None], (y * weight)[fitted])
    for name, value in zip((*CLASSES, "word"), coefficients, strict=True):
        print(f'    "{name}": {value:.3f},')
    for k in dict.fromkeys(kinds):
        mine = (kind == k) & ~fitted
        for label, estimate in (
            ("fitted now", x @ coefficients),
            ("in shape.py", x @ np.append(shape.CHARACTER_TOKENS, shape.TOKENS_PER_WORD)),
        ):
            error = estimate[mine] / y[mine] - 1
            print(f"{k:24} {label:12} bias {error.mean():+.3f}, mean error {abs(error).mean():.3f}")


if __name__ == "__main__":
    main()
