"""Searches and other reads, over a blocking connection."""

from collections.abc import Iterator, Sequence

from services.client import reads, searches
from services.client.blocking.connection import Connection
from services.client.filters import Where
from services.client.types import (
    Codes,
    CountResult,
    Document,
    Documents,
    Explanations,
    Floats,
    Page,
    SearchResult,
    Token,
)
from services.runtime import limits


class ReadCalls(Connection):
    """Calls that find, read, list, count and explain documents."""

    def search(
        self,
        collection: str,
        *,
        embeddings: Floats | None = None,
        texts: Sequence[str] | None = None,
        codes: Codes | None = None,
        ids: Sequence[str] | None = None,
        top_n: int = 10,
        k: int = 0,
        k_query: int = 0,
        k_docs: int = 0,
        where: Where | None = None,
        min_score: float | None = None,
        rerank: int = 0,
        include_payloads: bool = False,
        token: Token | None = None,
        allow_truncation: bool = False,
        allow_partial: bool = False,
        allow_lower_k: bool = False,
    ) -> SearchResult:
        """Find the exact best documents for up to 256 queries, given in one of four forms.

        Args:
            collection: Its name.
            embeddings: [n, d]; kind dense.
            texts: Kind dense, with a backbone in the encoder.
            codes: One row each, of the model of the collection's active generation.
            ids: Of stored documents: what is near to them; none is a hit of its own query.
            top_n: Hits per query, 1..1,000.
            k: Active latents on both sides; 0 takes the collection's k_max.
            k_query: Active latents of queries, 1..256; 0 takes k.
            k_docs: Active latents of documents, a power of two up to k_max or k_max itself; 0 takes k.
            where: Only documents that match, over declared fields.
            min_score: Only hits with at least this score.
            rerank: Score this many sparse hits again with stored embeddings, then keep the best top_n; 0: do not.
            include_payloads: Send payloads of the hits.
            token: Wait until the writes that it covers are visible.
            allow_truncation: Cut texts over the backbone's limit instead of refusing them.
            allow_partial: Answer from the partitions that can be reached; the receipt names the others.
            allow_lower_k: Under overload, search with fewer latents rather than not at all; the receipt says so.
        """
        request = searches.search_request(
            collection,
            embeddings=embeddings,
            texts=texts,
            codes=codes,
            ids=ids,
            top_n=top_n,
            k=k,
            k_query=k_query,
            k_docs=k_docs,
            where=where,
            min_score=min_score,
            rerank=rerank,
            include_payloads=include_payloads,
            token=token,
            allow_truncation=allow_truncation,
            allow_partial=allow_partial,
            allow_lower_k=allow_lower_k,
        )
        return searches.search_result(self._retried(self._search.Search, request))

    def explain(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        embeddings: Floats | None = None,
        texts: Sequence[str] | None = None,
        codes: Codes | None = None,
        query_id: str | None = None,
        k: int = 0,
        k_query: int = 0,
        k_docs: int = 0,
        token: Token | None = None,
        allow_truncation: bool = False,
    ) -> Explanations:
        """Say which latents make up the scores of up to 100 documents, found by a search or not.

        Args:
            collection: Its name.
            ids: Of the documents.
            embeddings: The query, [1, d]; as in search, and so are the other forms of it.
            texts: One.
            codes: One row.
            query_id: Of a stored document.
            k: As in search, and so are the others.
            k_query: As in search.
            k_docs: As in search.
            token: As in search.
            allow_truncation: As in search.
        """
        request = searches.explain_request(
            collection,
            ids,
            embeddings=embeddings,
            texts=texts,
            codes=codes,
            query_id=query_id,
            k=k,
            k_query=k_query,
            k_docs=k_docs,
            token=token,
            allow_truncation=allow_truncation,
        )
        return searches.explanations(self._retried(self._search.Explain, request))

    def get(
        self, collection: str, ids: Sequence[str], *, include_embeddings: bool = False, include_codes: bool = False
    ) -> Documents:
        """Read up to 1,000 documents by id."""
        request = reads.get_request(collection, ids, include_embeddings, include_codes)
        return reads.documents(self._retried(self._search.Get, request))

    def count(self, collection: str, *, where: Where | None = None, token: Token | None = None) -> CountResult:
        """Count live documents, or those that match; with a token, at its positions or later ones."""
        request = reads.count_request(collection, where, token)
        return reads.count_result(self._retried(self._search.Count, request))

    def scroll_page(
        self,
        collection: str,
        *,
        limit: int = 100,
        cursor: str = "",
        where: Where | None = None,
        include_payloads: bool = False,
        token: Token | None = None,
    ) -> Page:
        """Read one page of documents, by id.

        Args:
            collection: Its name.
            limit: Documents of the page, 1..1,000.
            cursor: next_cursor of the page before; empty for the first.
            where: Only documents that match.
            include_payloads: Send payloads.
            token: As in search.
        """
        request = reads.scroll_request(collection, limit, cursor, where, include_payloads, token)
        return reads.page(self._retried(self._search.Scroll, request))

    def scroll(
        self,
        collection: str,
        *,
        where: Where | None = None,
        include_payloads: bool = False,
        token: Token | None = None,
    ) -> Iterator[Document]:
        """Yield all documents by id, page by page; those written meanwhile may be missing or there.

        Raises:
            StoreUnavailable: payloads of a page could not be read. `scroll_page` returns what there is, flagged.
        """
        cursor, more = "", True
        while more:
            page = self.scroll_page(
                collection,
                limit=limits.SCROLL_MAX,
                cursor=cursor,
                where=where,
                include_payloads=include_payloads,
                token=token,
            )
            reads.check_payloads(page)
            yield from page.documents
            cursor, more = page.next_cursor, bool(page.next_cursor)
