"""Write nbs/llms.txt, the table of contents that language models read: python tools/llms.py [FILE]
It lists the pages of the site in the order of the sidebar in _quarto.yml, each with its title and description."""
import json, re, sys
from pathlib import Path
import yaml

root = Path(__file__).resolve().parent.parent
website = yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))['website']

def page_line(path):
    "A link to the Markdown of a page, with what its notebook says of it"
    first = json.loads((root/'nbs'/path).read_text(encoding='utf-8'))['cells'][0]
    title,description = re.match(r'# (.+)\n+> (.+)', ''.join(first['source'])).groups()
    page = re.sub(r'(^|/)\d+[a-z]?_', r'\1', path).removesuffix('.ipynb')      # the site's pages have no numbers
    return f"- [{title}]({website['site-url']}/{page}.html.md): {description}"

def section_lines(contents, level=2):
    "The lines of a part of the sidebar"
    lines = []
    for entry in contents:
        if isinstance(entry, str): lines.append(page_line(entry))
        else: lines += ['', f"{'#'*level} {entry['section']}", '', *section_lines(entry['contents'], level+1)]
    return lines

if __name__=='__main__':
    lines = [f"# {website['title']}", '', f"> {website['description']}", '', *section_lines(website['sidebar']['contents'])]
    text = re.sub(r'\n{3,}', '\n\n', '\n'.join(lines))
    (Path(sys.argv[1]) if len(sys.argv)>1 else root/'nbs/llms.txt').write_text(text+'\n', encoding='utf-8')
